"""Parts of the page, such as thumbnails of images to pick from and an image to draw on."""

import asyncio
from collections import OrderedDict
from contextlib import contextmanager
from hashlib import sha256

from fastapi import HTTPException, Response
from nicegui import ui

from sklearn_exdd.review.drawing import TOOLS, Stroke, page_scale, preview, rasterize, svg

TITLE = "text-base font-medium"
HINT = "text-sm opacity-80"
BAD = "text-red-700 dark:text-red-300"
_PER_PAGE = 12
_N_LEFT_OUT = 200
_N_PICTURES = 512


class Pictures:
    """Store of the images that the page has shown most recently. Browsers can request only these images."""

    def __init__(self):
        self._contents = OrderedDict()

    def url(self, content):
        """Store an image, given as the bytes of a PNG file, and return the address of the image on the page."""
        key = sha256(content).hexdigest()
        self._contents[key] = content
        self._contents.move_to_end(key)
        while len(self._contents) > _N_PICTURES:
            self._contents.popitem(last=False)
        return f"/pictures/{key}"

    async def answer(self, key: str):
        """Answer the request of a browser for an image."""
        if key not in self._contents:
            raise HTTPException(404, "No such image.")
        return Response(self._contents[key], media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def plain(text):
    """Escape characters that cannot be printed or sent."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def tell(message, kind="info"):
    """Show a message for 2 s. Warnings and errors are shown for 20 s, unless the user closes them earlier."""
    stays = {"timeout": 2000}
    if kind in ("warning", "negative"):
        close = {"label": "Close", "color": "white" if kind == "negative" else "black"}
        stays = {"timeout": 20_000, "actions": [close], "multi_line": True}
    ui.notify(plain(message), type=kind, position="top", **stays)


class Latest:
    """Counter of slow requests. A request uses it to find out whether a later request has replaced it."""

    def __init__(self):
        self._number = 0

    def start(self):
        """Start a request. Return a function that tells whether this request is still the latest."""
        self._number = number = self._number + 1
        return lambda: number == self._number


@contextmanager
def busy(button):
    """Show a button as loading. Meanwhile, its handlers should ignore clicks; see :func:`is_busy`."""
    button.props("loading")
    try:
        yield
    finally:
        button.props(remove="loading")


def is_busy(button):
    """Tell whether a button is loading. The browser may send another click before it shows this state."""
    return "loading" in button.props


class Gallery:
    """Thumbnails of images, distributed over several pages.

    Parameters
    ----------
    title : str
        Heading.
    session : ReviewSession
        Session that makes the thumbnails.
    pictures : Pictures
        Store of the images to send to browsers.
    on_pick : callable
        Function to call with the name of the picked image.
    on_draw : callable
        Function to call, without arguments, after thumbnails have been drawn.
    """

    def __init__(self, title, session, pictures, on_pick, on_draw):
        self.session, self.pictures, self.on_pick, self.on_draw = session, pictures, on_pick, on_draw
        self.items, self.picked, self.tiles, self.drawings = [], None, {}, Latest()
        with ui.row().classes("w-full min-h-8 items-center"):
            ui.label(title).classes(TITLE)
            ui.space()
            self.pages = ui.pagination(1, 1, direction_links=True, on_change=self.draw).props("max-pages=7 dense")
        self.row = ui.element("div").classes("w-full grid gap-2 grid-cols-[repeat(auto-fill,minmax(5.5rem,1fr))]")
        self.row.classes("min-h-30")  # of a row of tiles: when they arrive, the buttons below do not move

    async def fill(self, items):
        """Show images. Each item is a tuple (entry, caption, CSS classes of the caption)."""
        self.items = items
        self.pages.max = max(1, -(-len(items) // _PER_PAGE))
        self.pages.value = min(self.pages.value, self.pages.max)
        self.pages.set_visibility(len(items) > _PER_PAGE)
        await self.draw()

    async def draw(self):
        """Draw the current page of thumbnails."""
        is_latest = self.drawings.start()
        first = (self.pages.value - 1) * _PER_PAGE
        items = self.items[first : first + _PER_PAGE]
        thumbnails = [await asyncio.to_thread(self.session.thumbnail, entry) for entry, _, _ in items]
        if is_latest():
            self._show(items, thumbnails)
            await self.on_draw()

    def _show(self, items, thumbnails):
        # A click may be on its way from the browser. It takes effect only if the clicked element still exists.
        # Therefore, a tile that is still needed is moved and not replaced. A tile that is no longer needed is hidden,
        # and deleted the next time.
        keys = [(entry.name, *thumbnail) for (entry, _, _), thumbnail in zip(items, thumbnails)]
        for key in self.tiles.keys() - set(keys):
            if self.tiles[key].column.visible:
                self.tiles[key].column.set_visibility(False)
            else:
                self.tiles.pop(key).column.delete()
        for index, (key, (_, caption, color)) in enumerate(zip(keys, items)):
            if key not in self.tiles:
                with self.row:
                    self.tiles[key] = _Tile(*key, self.pictures, self._pick)
            self.tiles[key].show(caption, color, self.row, index)
        self._mark()

    async def _pick(self, name):
        self.picked = name
        self._mark()
        with self.row:  # the tile may be deleted in the meantime
            await self.on_pick(name)

    def _mark(self):
        for (name, *_), tile in self.tiles.items():
            tile.mark(name == self.picked)


class _Tile:
    """Thumbnail of an image, with its name and a caption. If the image can be read, the thumbnail is a button."""

    def __init__(self, name, content, problem, pictures, on_pick):
        shown = plain(name)
        with ui.column().classes("w-22 gap-0 items-center") as self.column:
            self.button = None
            if problem is None:
                self.button = ui.button().classes("w-22 h-22")
                # The mouse picks when it is pressed: before it is released, a new ranking may move the tile away, and
                # the browser then sends no click. Clicks without the mouse, such as those of the Enter key, have no
                # detail.
                self.button.on("mousedown", lambda: on_pick(name), js_handler="(e) => e.button === 0 && emit()")
                self.button.on("click", lambda: on_pick(name), js_handler="(e) => e.detail === 0 && emit()")
                self.button.props("flat padding=3px").props["aria-label"] = shown
                with self.button:
                    ui.element("img").classes("max-w-full max-h-20 object-contain").props["src"] = pictures.url(content)
            else:
                ui.icon("broken_image", size="lg").classes("w-22 h-22 opacity-60")
            label = ui.label(shown.rpartition("/")[2]).classes("w-22 text-xs text-center truncate")
            label.props["title"] = plain(problem or name)
            self.caption = ui.label()

    def show(self, caption, color, row, index):
        """Show the tile with a caption at a position in the row."""
        if self.button is None:
            caption, color = "unreadable", BAD
        self.caption.text = caption or ""
        self.caption.classes(replace=f"text-xs {color or ''}")
        self.column.set_visibility(True)
        if row.default_slot.children[index] is not self.column:
            self.column.move(target_index=index)

    def mark(self, is_picked):
        """Mark the tile if it is picked, and remove the mark otherwise."""
        if self.button is not None:
            self.button.style(replace="box-shadow: 0 0 0 2px #0ea5e9" if is_picked else "")
            self.button.props["aria-pressed"] = str(is_picked).lower()


class LeftOut:
    """Collapsible list of files that cannot be used, with the reasons. The heading gives the number of files.

    Parameters
    ----------
    session : ReviewSession
        Session whose files are listed.
    """

    def __init__(self, session):
        self.session, self.shown, self.refreshes = session, [], Latest()
        self.expansion = ui.expansion(icon="report_problem").classes("w-full max-w-screen-xl mx-auto")
        self.expansion.set_visibility(False)
        with self.expansion:
            self.rows = ui.column().classes("w-full gap-1 max-h-60 overflow-y-auto flex-nowrap")

    async def refresh(self):
        """Show the files that are currently left out."""
        is_latest = self.refreshes.start()
        left_out = await asyncio.to_thread(self.session.left_out)
        if left_out == self.shown or not is_latest():
            return
        self.shown = left_out
        self.expansion.text = f"{len(left_out)} file{'s' * (len(left_out) > 1)} left out"
        self.expansion.set_visibility(bool(left_out))
        self.rows.clear()
        with self.rows:
            for name, reason in left_out[:_N_LEFT_OUT]:
                ui.label(plain(f"{name}: {reason}")).classes("text-sm break-words w-full")
            if len(left_out) > _N_LEFT_OUT:
                ui.label(f"And {len(left_out) - _N_LEFT_OUT} more.").classes("text-sm")


class View:
    """Image that is as large as the window allows. It is invisible until the browser has loaded it.

    Parameters
    ----------
    pictures : Pictures
    **options : dict
        Options of :class:`nicegui.ui.interactive_image`.
    """

    def __init__(self, pictures, **options):
        self.pictures, self.n_shown = pictures, 0
        self.image = ui.interactive_image(**options).classes("w-full")
        self.image.on("loaded", self._loaded)
        self.hide()

    def hide(self):
        """Hide the image. The page keeps an empty space for it."""
        self.address = None
        self.image.style("visibility: hidden")

    def show(self, image, mask=None, roi=None, then=None):
        """Show an image. Once the image is visible, call the function `then` without arguments."""
        height, width = image.shape[:2]
        self.image.style(
            f"max-width: max(16rem, (100vh - 30rem) * {width / height:.4f})"
        )  # tall images may need scrolling
        self.n_shown += 1  # new address each time: the browser sends no event for an address that it already shows
        self.address, self.then = f"{self.pictures.url(preview(image, mask, roi=roi))}?{self.n_shown}", then
        self.image.set_source(self.address)

    def _loaded(self, event):
        if self.address is not None and event.args["source"].endswith(self.address):
            self.image.style(remove="visibility: hidden")
            if self.then is not None:
                self.then()


class Canvas:
    """Image on which a region can be drawn.

    Parameters
    ----------
    session : ReviewSession
    pictures : Pictures

    Attributes
    ----------
    name : str or None
        Name of the image that the expert sees. None until the browser shows the image.
    """

    def __init__(self, session, pictures):
        self.session = session
        self.name, self.shape, self.strokes, self.is_drawing, self.picks = None, None, [], False, Latest()
        with ui.row().classes("w-full h-14 items-center gap-2 no-wrap"):
            tools = {tool: tool.capitalize() for tool in TOOLS}
            self.tool = ui.toggle(tools, value=TOOLS[0]).props("dense no-caps padding='2px 8px'")
            with ui.row().classes("items-center gap-2 no-wrap").bind_visibility_from(self.tool, "value", value="brush"):
                ui.label("Width").classes("text-sm")
                self.width = ui.slider(min=1, max=100, value=20).classes("w-16").props("label aria-label='Brush width'")
            ui.space()
            small = "flat round dense size=sm"
            ui.button(icon="undo", on_click=self.undo).props(f"{small} aria-label='Undo a stroke'")
            ui.button(icon="delete_outline", on_click=self.clear).props(f"{small} aria-label='Clear the region'")
        events = ["pointerdown", "pointermove", "pointerup"]
        self.view = View(pictures, events=events, on_mouse=self._draw, sanitize=False)
        self.view.image.classes("cursor-crosshair").style("touch-action: none")
        self.hint = ui.label().classes(HINT)
        self.hint.set_visibility(False)

    async def pick(self, name):
        """Read and show another image.

        Parameters
        ----------
        name : str

        Returns
        -------
        is_picked : bool
            False if the image cannot be read, or if another image has been picked in the meantime.
        """
        is_latest = self.picks.start()
        # Until the browser shows the new image, the expert may still see the old one. Clicks are ignored until then.
        self.name, self.shape = None, None
        self.view.hide()
        self.clear()
        try:
            image, roi = await asyncio.to_thread(self.session.open, name)
        except Exception as problem:  # a step before the detector may raise anything
            if is_latest():
                tell(problem, "negative")
            return False
        if is_latest():
            self._show(name, image, roi)
        return is_latest()

    def _show(self, name, image, roi):
        fits = roi is None or roi.shape == image.shape[:2]
        self.hint.set_visibility(roi is not None)
        self.hint.text = "Shaded: outside the detector's region of interest."
        if not fits:
            size = f"{roi.shape[0]} x {roi.shape[1]} pixels"
            self.hint.text = f"The detector's region of interest is for images of {size}. Nothing can be drawn here."

        def ready():
            self.name, self.shape = name, image.shape[:2]

        self.view.show(image, roi=roi if fits else None, then=ready)

    def region(self):
        """Return the drawn region as a boolean mask, or None if it is empty."""
        if self.shape is None or not self.strokes:
            return None
        region = rasterize(self.strokes, self.shape)
        return region if region.any() else None

    def undo(self):
        """Remove the last stroke."""
        self.strokes = self.strokes[:-1]
        self._show_strokes()

    def clear(self):
        """Remove all strokes."""
        self.strokes, self.is_drawing = [], False
        self._show_strokes()

    def _show_strokes(self):
        self.view.image.content = svg(self.strokes, page_scale(self.shape)) if self.shape else ""

    def _draw(self, event):
        if self.shape is None or event.image_x is None:  # no image is shown yet
            return
        height, width = self.shape
        scale = page_scale(self.shape)
        point = min(max(event.image_x / scale, 0), width - 1), min(max(event.image_y / scale, 0), height - 1)
        if event.type == "pointerdown" and event.button == 0:
            # The slider sets the width relative to the image: 100 means a quarter of the longer side of the image.
            thickness = max(1, self.width.value / 400 * max(self.shape))
            self.strokes = [*self.strokes, Stroke(self.tool.value, thickness, [point])]
            self.is_drawing = True
        elif not self.is_drawing:
            return
        elif event.type == "pointermove" and event.buttons & 1:
            self.strokes[-1].points.append(point)
        else:  # the button may have been released outside the image
            self.is_drawing = False
        self._show_strokes()
