"""Layout of the review page, and the functions that its buttons call."""

import asyncio
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from sklearn_exdd.review.drawing import heat
from sklearn_exdd.review.guard import Guard
from sklearn_exdd.review.history import History
from sklearn_exdd.review.roi import CUT_OFF
from sklearn_exdd.review.widgets import (
    BAD,
    HINT,
    TITLE,
    Canvas,
    Gallery,
    Latest,
    LeftOut,
    Pictures,
    View,
    busy,
    is_busy,
    plain,
    tell,
)

_RECONNECT = 60  # seconds
_NUMBERS = "Numbers are scores minus the threshold."
# Errors that the folder may raise. They are shown to the expert.
_PROBLEMS = (OSError, ValueError)


class MakePanel:
    """Panel to make defects: pick an image, draw a region, choose a generator, and accept or reject the result."""

    def __init__(self, session, pictures, on_decision, on_draw):
        self.session, self.pictures, self.on_decision = session, pictures, on_decision
        self.made, self.results = None, Latest()
        with ui.card().classes("w-full gap-2"):
            self.gallery = Gallery("1. Pick a normal image", session, pictures, self.pick, on_draw)
        with ui.element("div").classes("w-full grid grid-cols-1 md:grid-cols-2 gap-4"):
            with ui.card().classes("gap-2"):
                ui.label("2. Draw where the defect goes").classes(TITLE)
                self.canvas = Canvas(session, pictures)
            with ui.card().classes("gap-2"):
                ui.label("3. Generate, and decide").classes(TITLE)
                self._generator()
                self.result = View(pictures)
                self._decision()
        ui.timer(0, self.fill, once=True)

    async def fill(self):
        """Show the thumbnails of the images on which defects can be made."""
        entries = self.session.sources()
        await self.gallery.fill([(entry, None, None) for entry in entries])
        if not entries:
            self.about.text = "The folder contains no images."

    def _generator(self):
        names = list(self.session.generators)
        with ui.row().classes("w-full h-14 items-center gap-3 no-wrap"):
            self.generator = ui.select(names, value=names[0], label="Generator").classes("grow min-w-0")
            self.seed = ui.number("Seed", value=0, min=0, max=2**31 - 1, precision=0).classes("w-20")
            self.generate = ui.button("Generate", on_click=self.make).props("no-caps")
        self.prompt = ui.input("Prompt: a description of the defect").classes("w-full")
        self.prompt.bind_visibility_from(self.generator, "value", backward=self.session.takes_prompt)

    def _decision(self):
        self.about = ui.label().classes(HINT)
        with ui.row().classes("w-full items-center gap-3") as self.decision:
            self.verdict = ui.row().classes("items-center gap-3")
            self.outlined = ui.switch("Outline", value=True, on_change=self.show)
        self._forget()

    async def pick(self, name):
        """Show the picked image on the canvas."""
        self._forget()
        await self.canvas.pick(name)

    async def make(self):
        """Make a defect in the drawn region."""
        region = self.canvas.region()
        if region is None:
            return tell("Pick an image and draw where the defect goes.", "warning")
        prompt = (self.prompt.value or "").strip() if self.session.takes_prompt(self.generator.value) else None
        if prompt == "":
            return tell("Describe the defect in the prompt.", "warning")
        if is_busy(self.generate):
            return
        is_latest = self._forget("Generating …")
        name, generator, seed = self.canvas.name, self.generator.value, int(self.seed.value or 0)
        try:
            with busy(self.generate):
                made = await asyncio.to_thread(self.session.make, name, region, generator, prompt=prompt, seed=seed)
        except Exception as problem:  # a generator may raise anything
            if is_latest():
                self._forget()
                tell(problem, "negative")
            return
        if is_latest():  # otherwise, another image has been picked in the meantime
            self._offer(made)

    def _offer(self, made):
        """Show a result and the buttons to decide on it."""
        self.made = made
        sentences = [f"{made.recipe['generator']}, seed {made.recipe['seed']}."]
        sentences += [f"“{made.recipe['prompt']}”"] if made.recipe["prompt"] else []
        sentences += [CUT_OFF] if made.is_cut else []
        sentences += [] if made.visible else ["The defect is hardly visible against the texture."]
        self.about.text = plain(" ".join(sentences))
        with self.verdict:  # each result gets new buttons, so that a late click cannot decide on the next result
            for text, icon, color, accept in (
                ("Accept", "check", "positive", True),
                ("Reject", "close", "negative", False),
            ):
                button = ui.button(text, icon=icon, on_click=lambda accept=accept: self.decide(made, accept))
                button.props(f"no-caps color={color}")
        self.show()

    async def decide(self, made, accept):
        """Store the decision on a result and prepare for the next result."""
        if made is not self.made:  # a double click
            return
        try:
            self.session.decide(made, accept)
        except _PROBLEMS as problem:
            return tell(problem, "negative")
        tell("Accepted and kept." if accept else "Rejected.", "positive" if accept else "info")
        self.seed.value = int(self.seed.value or 0) + 1
        self._forget()
        await self.on_decision()

    def _forget(self, about="The result appears here."):
        """Discard the result. A result that is still being made will not be shown.

        Return a function that tells whether the next result is still wanted.
        """
        self.made = None
        self.result.hide()
        self.about.text = about
        self.decision.set_visibility(False)
        self.verdict.clear()
        return self.results.start()

    def show(self):
        """Show the result, with or without an outline of the defect."""
        if self.made:
            mask = self.made.mask if self.outlined.value else None
            self.result.show(self.made.image, mask, then=lambda: self.decision.set_visibility(True))


class CorrectPanel:
    """Panel to correct a detector. The images with the most likely mistakes come first."""

    def __init__(self, session, pictures, on_decision, on_draw):
        self.session, self.pictures, self.on_decision = session, pictures, on_decision
        self.ranking, self.rankings, self.ranked = [], Latest(), None
        self.maps, self.mapping = Latest(), asyncio.Lock()
        if session.detector is None:
            ui.label("Start the page with --detector FILE to correct a fitted detector.").classes("text-base")
            return
        with ui.card().classes("w-full gap-2"):
            title = "1. Pick an image: likely mistakes come first"
            self.gallery = Gallery(title, session, pictures, self.pick, on_draw)
            self.progress = ui.linear_progress(0, show_value=False)
        with ui.element("div").classes("w-full grid grid-cols-1 md:grid-cols-2 gap-4"):
            with ui.card().classes("gap-2"):
                ui.label("2. Decide: normal or a defect").classes(TITLE)
                self.canvas = Canvas(session, pictures)
                with ui.row().classes("w-full items-center gap-3"):
                    self.verdicts = [
                        ui.button("Really normal", on_click=lambda: self.correct(0)).props("no-caps color=positive"),
                        ui.button("Really a defect", on_click=lambda: self.correct(1)).props("no-caps color=negative"),
                    ]
                ui.label("You may draw the region of the defect first.").classes(HINT)
            with ui.card().classes("gap-2"):
                ui.label("What the detector sees").classes(TITLE)
                self.about = ui.label(_NUMBERS)
                self.about.classes(f"{HINT} h-14 content-center")
                self.map = View(pictures)
        self.history = History(session, self.changed)
        ui.timer(0, self.rank, once=True)
        ui.timer(1, self.follow, immediate=False)

    async def rank(self):
        """Score all images with the detector. If the detector changes in the meantime, start again."""
        entries, corrections = self.session.folder.entries(), self.session.corrections
        state, judged = corrections.state, []
        # Score the images with the loaded detector, too. Corrections may have begun before it had scored all images.
        questions = [(entry, one) for one in (corrections.loaded, state) for entry in entries]
        questions = [(entry, one) for entry, one in questions if one is state or entry.name not in one.judged]
        if corrections.loaded is state:
            questions = questions[: len(entries)]
        is_latest, self.ranked = self.rankings.start(), state
        self.progress.value = 0
        self.progress.style(remove="visibility: hidden")
        for n_done, (entry, one) in enumerate(questions, start=1):
            answer = await asyncio.to_thread(self.session.judge, entry, one)
            judged += [answer] if one is state else []
            if not is_latest():
                return None
            if corrections.state is not state:  # the detector has been corrected in another window
                return await self.rank()
            self.progress.value = n_done / len(questions)
        self.progress.style("visibility: hidden")  # its space stays, so that the buttons below do not move
        self.ranking = self.session.worst_first(judged)
        await self.on_decision()

    async def follow(self):
        """Show corrections that were made or undone on another page."""
        if self.session.corrections.state is not self.ranked:
            await self.changed()

    async def changed(self):
        """Update the page after the detector has changed."""
        await self.on_decision()
        await self.rank()
        if self.canvas.name is not None:
            await self.show_map(self.canvas.name)

    async def refresh(self):
        """Show the current scores and decisions."""
        if self.session.detector is not None:
            decisions = self.session.folder.decisions()
            known = {own["source"]: own["label"] for own in decisions if own["what"] == "corrected"}
            await self.gallery.fill([(judged.entry, *_caption(judged, known)) for judged in self.ranking])
            await self.history.refresh()

    async def pick(self, name):
        """Show an image and its anomaly map."""
        self._hide_map("")
        if await self.canvas.pick(name):
            await self.show_map(name)

    async def show_map(self, name):
        """Show the anomaly map of an image."""
        is_latest = self._hide_map("Computing the map …")
        async with self.mapping:  # compute one map at a time, and skip maps that are no longer wanted
            if not is_latest():
                return
            try:
                found, colored = await asyncio.to_thread(self._locate, name)
            except Exception as problem:  # a detector may raise anything
                if is_latest():
                    self._hide_map("No map.")
                    tell(problem, "negative")
                return
        if not is_latest():
            return
        if found is None:
            self.about.text = "This detector has no anomaly maps."
        else:
            self.about.text = f"{found.found} {_NUMBERS}"
            self.map.show(colored, found.mask)

    def _hide_map(self, about):
        """Hide the map. A map that is still being computed will not be shown.

        Return a function that tells whether the next map is still wanted.
        """
        self.map.hide()
        self.about.text = about
        return self.maps.start()

    def _locate(self, name):
        found = self.session.locate(name)
        return found, None if found is None else heat(self.session.folder.read(name), found.map, found.threshold)

    async def correct(self, label):
        """Store the true label of the picked image and correct the detector."""
        name, region = self.canvas.name, self.canvas.region() if label else None
        if name is None:
            return tell("Pick an image first.", "warning")
        for button in self.verdicts:
            button.disable()
        try:
            with busy(self.verdicts[label]):
                is_cut = await asyncio.to_thread(self.session.corrections.add, name, label, region)
        except Exception as problem:  # a step before the detector may raise anything
            tell(problem, "negative")
        else:
            kept = "Kept as a defect." if label else "Kept as normal."
            tell(*(f"{kept} {CUT_OFF}", "warning") if is_cut else (kept, "positive"))
        finally:
            for button in self.verdicts:
                button.enable()
        await self.changed()


def _caption(judged, known):
    """Return the caption of an image (verdict and score), and the CSS classes of its colour."""
    if judged.score is None:
        return "unreadable", BAD
    if judged.entry.name in known:
        return ("✓ normal", "✓ defect")[known[judged.entry.name]], "text-sky-700 dark:text-sky-300"
    is_alarm, is_defect = judged.score > 0, judged.entry.label == 1
    kind = (("passed", "alarm"), ("missed", "found"))[is_defect][is_alarm]
    color = "opacity-80" if is_alarm == is_defect else "text-amber-700 dark:text-amber-300 font-medium"
    return f"{kind} {judged.score:+.2g}", color


class Page:
    """Page with two panels. A header above the panels shows the numbers of decisions."""

    def __init__(self, session, pictures):
        self.session = session
        ui.colors(primary="#0284c7")
        with ui.header().classes("items-center gap-x-4 gap-y-0 py-1 md:flex-nowrap bg-sky-800"):
            ui.label(plain(f"Review {session.folder.path.resolve().name}")).classes("text-lg font-medium truncate")
            with ui.tabs().classes("shrink-0").props("no-caps dense") as tabs:
                make, correct = ui.tab("Make defects"), ui.tab("Correct a detector")
            ui.space()
            self.counts = ui.label().classes("text-sm whitespace-nowrap")
            self.undo = ui.button("Take back", icon="undo", on_click=self.take_back)
            self.undo.classes("shrink-0").props("flat dense no-caps no-wrap color=white")
        self.left_out = LeftOut(session)
        with ui.tab_panels(tabs, value=make, animated=False).classes("w-full max-w-screen-xl mx-auto bg-transparent"):
            with ui.tab_panel(make).classes("p-0 gap-4"):
                MakePanel(session, pictures, self.refresh, self.show_left_out)
            with ui.tab_panel(correct).classes("p-0 gap-4"):
                self.correct = CorrectPanel(session, pictures, self.refresh, self.show_left_out)
        ui.timer(0, self.refresh, once=True)

    async def refresh(self):
        """Update the numbers of decisions and the panels."""
        try:
            counts = self.session.folder.counts()
            # Show the counts before the first await. A slow refresh must not overwrite the counts of a later refresh.
            self.counts.text = " · ".join(f"{counts[kind]} {kind}" for kind in ("accepted", "rejected", "corrected"))
            await self.correct.refresh()
        except _PROBLEMS as problem:
            tell(problem, "negative")

    async def show_left_out(self):
        """Show the files that cannot be used."""
        try:
            await self.left_out.refresh()
        except _PROBLEMS as problem:
            tell(problem, "negative")

    async def take_back(self):
        """Withdraw the latest decision."""
        if is_busy(self.undo):  # a double click must not take back two decisions
            return
        try:
            with busy(self.undo):
                decision = await asyncio.to_thread(self.session.take_back)
        except _PROBLEMS as problem:
            return tell(problem, "negative")
        if decision is None:
            return tell("No decision is left to take back.", "warning")
        if self.session.corrections is not None and decision in self.session.corrections.applied():
            kind = "a defect" if decision["label"] else "normal"
            tell(
                f"Taken back, but the loaded detector has already learned that {decision['source']} is {kind}.",
                "warning",
            )
        else:
            tell(f"Taken back: {decision['source']} ({decision['what']}).")
        if decision["what"] == "corrected" and self.session.corrections is not None:
            await self.correct.changed()
        else:
            await self.refresh()


def serve(session, listener, token, names):
    """Serve the page until the process is interrupted.

    Parameters
    ----------
    session : ReviewSession
        Session to show on the page.
    listener : socket.socket
        Socket that already listens on a port.
    token : str
        Secret that opens the page; see :class:`~sklearn_exdd.review.guard.Guard`.
    names : set of str
        Host names under which the page may be requested.
    """
    app, pictures = FastAPI(openapi_url=None), Pictures()
    app.get("/pictures/{key}")(pictures.answer)
    ui.page("/", title="Review", dark=None)(lambda: Page(session, pictures))
    # A busy computer or a bad connection must not cost the expert the drawn region: the page is kept for a while.
    ui.run_with(app, show_welcome_message=False, reconnect_timeout=_RECONNECT)
    config = uvicorn.Config(
        Guard(app, token, names),
        log_level="warning",
        proxy_headers=False,  # a client could forge the headers of a proxy
        server_header=False,
        timeout_graceful_shutdown=1,  # seconds; open pages would keep their connections forever
        ws="wsproto",
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
