"""Card with the effect of the corrections, the numbered list of corrections, and a button to save the detector."""

import asyncio
from itertools import pairwise, takewhile

from nicegui import ui

from sklearn_exdd.review.widgets import HINT, TITLE, Latest, busy, is_busy, plain, tell

_KINDS = {
    "new": "New to the detector",
    "untold": "Labelled (the detector cannot tell which of them fit has used)",
    "known": "Used in fit: these results are better than on new images",
    "corrected": "Corrected: learned by the detector",
}
_N_NAMES = 8


class History:
    """List of the corrections with their figures. Each correction has a button to undo it.

    Parameters
    ----------
    session : ReviewSession
        Session with a detector.
    on_change : callable
        Function to call, without arguments, after the detector has changed.
    """

    def __init__(self, session, on_change):
        self.session, self.corrections, self.on_change = session, session.corrections, on_change
        self.drawn, self.refreshes = [], Latest()
        with ui.card().classes("w-full gap-2"):
            with ui.row().classes("w-full items-center gap-3"):
                ui.label("3. Effect of the corrections").classes(TITLE)
                ui.space()
                self.kept = ui.button(on_click=self.apply_kept).props("no-caps outline")
                self.save = ui.button("Save the detector", icon="save", on_click=self.write).props("no-caps outline")
            # The buttons are above all that grows with new figures, so that they do not move away from the mouse.
            self.rows = ui.column().classes("w-full gap-0 max-h-80 overflow-y-auto flex-nowrap")
            self.about = ui.label().classes(HINT)
            self.table = ui.element("div").classes("w-full grid gap-x-6 gap-y-1 text-sm")
            # In a narrow window, the names of the changed images are on a separate line.
            self.table.classes("grid-cols-[1fr_auto_auto] md:grid-cols-[max-content_max-content_max-content_1fr]")

    async def refresh(self):
        """Show the corrections and their figures."""
        is_latest, state = self.refreshes.start(), self.corrections.state
        kept = await asyncio.to_thread(self.corrections.kept)
        states = [*(step.before for step in state.steps), state]
        compared = [await asyncio.to_thread(self.corrections.changes, *pair) for pair in pairwise(states)]
        total, n_left_out = await asyncio.to_thread(self.corrections.changes, self.corrections.loaded, state)
        # Corrected or undone in the meantime: another refresh follows, or has already shown newer numbers.
        if self.corrections.state is not state or not is_latest():
            return
        self.kept.text = f"Apply {len(kept)} kept correction{'s' * (len(kept) > 1)}"
        self.kept.set_visibility(bool(kept) and self.corrections.can_learn)
        self.save.set_visibility(bool(self.corrections.applied()))
        self.about.text = self._about(state.steps, n_left_out)
        self.table.clear()
        with self.table:
            self._draw_table(total if state.steps else [])
        self._draw_rows(state.steps)
        for row, (changes, n_missing) in zip(self.drawn, compared):
            row.show([] if n_missing else changes)

    def _about(self, steps, n_left_out):
        if not self.corrections.can_learn:
            kind = type(self.corrections.loaded.detector).__name__
            return (
                f"Decisions are stored, but {kind} has no partial_fit. To use them, read them with load_review and fit "
                "again."
            )
        if not steps:
            return "A correction changes the detector at once and appears here."
        left_out = f" {n_left_out} labelled images were not scored by both detectors." if n_left_out else ""
        return f"Loaded detector → detector with all corrections.{left_out}"

    def _draw_table(self, changes):
        last = "col-span-3 md:col-span-1 min-w-0 break-words"
        for title in ("Labelled images", "Defects found", "False alarms", "Changed") if changes else ():
            ui.label(title).classes(f"font-medium {last if title == 'Changed' else ''}")
        for kind, before, after, changed in changes:
            ui.label(_KINDS[kind])
            ui.label(f"{before.n_found} → {after.n_found} of {after.n_defects}")
            ui.label(f"{before.n_alarms} → {after.n_alarms} of {after.n_normals}")
            more = f" and {len(changed) - _N_NAMES} more" if len(changed) > _N_NAMES else ""
            ui.label(plain(", ".join(changed[:_N_NAMES]) + more) or "none").classes(last)

    def _draw_rows(self, steps):
        """Draw the rows of new corrections, the latest on top. Other rows stay, so that no click on them is lost."""
        n_same = sum(1 for _ in takewhile(lambda pair: pair[0].step is pair[1], zip(self.drawn, steps)))
        for row in self.drawn[n_same:]:
            row.row.delete()
        self.drawn = self.drawn[:n_same]
        for number, step in enumerate(steps[n_same:], start=n_same + 1):
            with self.rows:
                self.drawn.append(_Row(number, step, self.undo))
            self.drawn[-1].row.move(target_index=0)
        for row in self.drawn:
            row.draw_undo(is_last=row is self.drawn[-1])

    async def undo(self, step, is_last, button):
        """Restore the state before a correction."""
        if is_busy(button):
            return
        with self.rows:  # the row is deleted in the meantime
            try:
                with busy(button):
                    await asyncio.to_thread(self.corrections.undo, step, is_last=is_last)
            except Exception as problem:
                tell(problem, "negative")
            else:
                tell("Undone: the detector is back in its earlier state.")
            await self.on_change()

    async def apply_kept(self):
        """Apply the corrections in the folder that the detector has not learned."""
        if is_busy(self.kept):
            return
        try:
            with busy(self.kept):
                await asyncio.to_thread(self.corrections.apply_kept)
        except Exception as problem:
            tell(problem, "negative")
        await self.on_change()

    async def write(self):
        """Save the corrected detector in the folder of decisions."""
        if is_busy(self.save):  # a double click must not write two files
            return
        try:
            with busy(self.save):
                name = await asyncio.to_thread(self.session.folder.save, self.session.detector)
        except Exception as problem:
            return tell(f"Not saved. {problem}", "negative")
        tell(f"Saved as {name}.", "positive")


class _Row:
    """Row of a correction: its number, the figures of its effect and the button that undoes it."""

    def __init__(self, number, step, on_undo):
        self.number, self.step, self.on_undo, self.is_last = number, step, on_undo, None
        with ui.row().classes("w-full items-center gap-x-3 gap-y-0 md:flex-nowrap") as self.row:
            kind = "a defect" if step.decision["label"] else "normal"
            ui.label(plain(f"{number}. {step.decision['source']} is {kind}.")).classes("text-sm md:whitespace-nowrap")
            self.figures = ui.label().classes(f"{HINT} grow min-w-0")
            self.undo = ui.row().classes("shrink-0")

    def show(self, changes):
        """Show the figures; without any, not all images have been scored."""
        figures = [
            f"{_KINDS[kind].partition(' (')[0].partition(':')[0]}: found {before.n_found} → {after.n_found}, "
            f"false alarms {before.n_alarms} → {after.n_alarms}"
            for kind, before, after, changed in changes
            if kind in ("new", "untold") or (kind == "known" and changed)
        ]
        self.figures.text = ". ".join(figures) or "Not all images were scored."

    def draw_undo(self, *, is_last):
        """Draw the button. It undoes what it says, even if another correction is applied before the click arrives."""
        if is_last is self.is_last:
            return
        self.is_last = is_last
        self.undo.clear()
        with self.undo:
            text = "Undo" if is_last else "Undo from here"
            button = ui.button(text, icon="undo", on_click=lambda: self.on_undo(self.step, is_last, button))
            button.props("flat dense no-caps no-wrap size=sm")
            button.props["aria-label"] = f"Undo correction {self.number}" + ("" if is_last else " and all later ones")
