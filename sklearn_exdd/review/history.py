"""Card of the corrections: their effect, their numbered list, and the button that saves the detector."""

from itertools import pairwise

from nicegui import run, ui

from sklearn_exdd.review.widgets import TITLE, plain, tell

_KINDS = {
    "new": "New to the detector",
    "untold": "Labelled (this detector cannot tell which images fit has used)",
    "known": "Used in fit: results are better than on new images",
    "corrected": "Corrected: learned by the detector",
}
_N_NAMES = 8


class History:
    """Corrections with their figures, each with a button that undoes it.

    Parameters
    ----------
    session : ReviewSession
        Session with a detector.
    on_change : callable
        Function called without arguments after the detector has changed.
    """

    def __init__(self, session, on_change):
        self.session, self.corrections, self.on_change = session, session.corrections, on_change
        with ui.card().classes("w-full gap-2"):
            with ui.row().classes("w-full items-center gap-3"):
                ui.label("3. Effect of the corrections").classes(TITLE)
                ui.space()
                self.kept = ui.button(on_click=self.apply_kept).props("no-caps outline")
                self.save = ui.button("Save the detector", icon="save", on_click=self.write).props("no-caps outline")
            self.about = ui.label().classes("text-sm opacity-80")
            self.table = ui.element("div").classes("w-full grid gap-x-6 gap-y-1 text-sm")
            self.table.style("grid-template-columns: max-content max-content max-content 1fr")
            self.rows = ui.column().classes("w-full gap-0 max-h-80 overflow-y-auto flex-nowrap")

    async def refresh(self):
        """Show the corrections and their figures."""
        steps, state = self.corrections.steps, self.corrections.state
        kept = await run.io_bound(self.corrections.kept)
        self.kept.text = f"Apply {len(kept)} kept correction{'s' * (len(kept) > 1)}"
        self.kept.set_visibility(bool(kept) and self.corrections.can_learn)
        self.save.set_visibility(bool(self.corrections.applied()))
        states = [*(step.before for step in steps), state]
        compared = [await run.io_bound(self.corrections.changes, *pair) for pair in pairwise(states)]
        total, n_left_out = await run.io_bound(self.corrections.changes, self.corrections.loaded, state)
        if self.corrections.state is not state:  # corrected or undone in the meantime: another refresh follows
            return
        self.about.text = self._about(steps, n_left_out)
        self.table.clear()
        with self.table:
            self._draw_table(total if steps else [])
        self.rows.clear()
        with self.rows:
            for number, (step, (changes, n_missing)) in reversed(list(enumerate(zip(steps, compared), start=1))):
                self._draw_row(number, step.decision, [] if n_missing else changes, is_last=number == len(steps))

    def _about(self, steps, n_left_out):
        if not self.corrections.can_learn:
            kind = type(self.corrections.loaded.detector).__name__
            return f"Decisions are kept, but {kind} has no partial_fit. To use them, fit it again with load_review."
        if not steps:
            return "A correction changes the detector at once and appears here."
        left_out = f" {n_left_out} labelled images were not scored by both." if n_left_out else ""
        return f"Loaded detector → detector with all corrections.{left_out}"

    def _draw_table(self, changes):
        for title in ("Labelled images", "Defects found", "False alarms", "Changed") if changes else ():
            ui.label(title).classes("font-medium")
        for kind, before, after, changed in changes:
            ui.label(_KINDS[kind])
            ui.label(f"{before.n_found} → {after.n_found} of {after.n_defects}")
            ui.label(f"{before.n_alarms} → {after.n_alarms} of {after.n_normals}")
            more = f" and {len(changed) - _N_NAMES} more" if len(changed) > _N_NAMES else ""
            ui.label(plain(", ".join(changed[:_N_NAMES]) + more) or "none").classes("min-w-0 break-words")

    def _draw_row(self, number, decision, changes, *, is_last):
        figures = [
            f"{_KINDS[kind].partition(' (')[0].partition(':')[0]}: found {before.n_found} → {after.n_found}, "
            f"false alarms {before.n_alarms} → {after.n_alarms}"
            for kind, before, after, changed in changes
            if kind in ("new", "untold") or (kind == "known" and changed)
        ]
        with ui.row().classes("w-full items-center gap-3 no-wrap"):
            kind = "a defect" if decision["label"] else "normal"
            ui.label(plain(f"{number}. {decision['source']} is {kind}.")).classes("text-sm whitespace-nowrap")
            ui.label(". ".join(figures) or "Not all images were scored.").classes("text-sm opacity-80 grow min-w-0")
            undo = ui.button("Undo" if is_last else "Undo from here", icon="undo", on_click=lambda: self.undo(number))
            undo.classes("shrink-0").props("flat dense no-caps no-wrap size=sm")
            undo.props["aria-label"] = f"Undo correction {number}" + ("" if is_last else " and all later ones")

    async def undo(self, number):
        """Return to the state before a correction."""
        try:
            await run.io_bound(self.corrections.undo, number)
        except Exception as problem:
            tell(problem, "negative")
        else:
            tell("Undone: the detector is back in its earlier state.")
        await self.on_change()

    async def apply_kept(self):
        """Apply the corrections that the folder keeps."""
        self.kept.props("loading")
        try:
            await run.io_bound(self.corrections.apply_kept)
        except Exception as problem:
            tell(problem, "negative")
        finally:
            self.kept.props(remove="loading")
        await self.on_change()

    async def write(self):
        """Save the detector in the folder of decisions."""
        self.save.props("loading")
        try:
            name = await run.io_bound(self.session.folder.save, self.session.detector)
        except Exception as problem:
            return tell(f"Not saved. {problem}", "negative")
        finally:
            self.save.props(remove="loading")
        tell(f"Saved as {name}.", "positive")
