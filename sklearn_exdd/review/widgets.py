"""Parts of the page: images that it serves, thumbnails to pick from, and an image to draw on."""

from collections import OrderedDict
from hashlib import sha256

from fastapi import HTTPException, Response
from nicegui import run, ui

from sklearn_exdd.review.drawing import TOOLS, Stroke, page_scale, preview, rasterize, svg

TITLE = "text-base font-medium"
BAD = "text-red-700 dark:text-red-300"
_PER_PAGE = 12
_N_LEFT_OUT = 200
_N_PICTURES = 512


class Pictures:
    """Images shown most recently on the page. Only these are served, never a file."""

    def __init__(self):
        self._contents = OrderedDict()

    def url(self, content):
        """Keep an image (bytes of a PNG file) and return its address."""
        key = sha256(content).hexdigest()
        self._contents[key] = content
        self._contents.move_to_end(key)
        while len(self._contents) > _N_PICTURES:
            self._contents.popitem(last=False)
        return f"/pictures/{key}"

    async def answer(self, key: str):
        """Answer the request for an image."""
        if key not in self._contents:
            raise HTTPException(404, "No such image.")
        return Response(self._contents[key], media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def plain(text):
    """Escape characters that cannot be printed or sent."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def tell(message, kind="info"):
    """Show a message for 2 s; a warning or an error stays for 20 s, or until it is closed."""
    stays = {"timeout": 2000}
    if kind in ("warning", "negative"):
        stays = {"timeout": 20_000, "close_button": "Close", "multi_line": True}
    ui.notify(plain(message), type=kind, position="top", **stays)


class Gallery:
    """Thumbnails, shown page by page.

    Parameters
    ----------
    title : str
        Heading.
    session : ReviewSession
    pictures : Pictures
    on_pick : callable
        Function called with the name of the picked image.
    on_draw : callable
        Function called without arguments after thumbnails have been drawn.
    """

    def __init__(self, title, session, pictures, on_pick, on_draw):
        self.session, self.pictures, self.on_pick, self.on_draw = session, pictures, on_pick, on_draw
        self.items, self.picked, self.buttons, self.drawn = [], None, {}, None
        with ui.row().classes("w-full items-center"):
            ui.label(title).classes(TITLE)
            ui.space()
            self.pages = ui.pagination(1, 1, direction_links=True, on_change=self.draw).props("max-pages=7 dense")
        self.row = ui.element("div").classes("w-full grid gap-2 grid-cols-[repeat(auto-fill,minmax(5.5rem,1fr))]")

    async def fill(self, items):
        """Show images, given as a list of (entry, caption, colour class of the caption)."""
        self.items = items
        self.pages.max = max(1, -(-len(items) // _PER_PAGE))
        self.pages.set_visibility(len(items) > _PER_PAGE)
        await self.draw()

    async def draw(self):
        """Draw the current page of thumbnails."""
        first = (self.pages.value - 1) * _PER_PAGE
        shown = items = self.items[first : first + _PER_PAGE]
        self.shown = shown
        thumbnails = [await run.io_bound(self.session.thumbnail, entry) for entry, _, _ in items]
        if self.shown is not shown:  # another page has been requested in the meantime
            return
        if self.drawn != (items, thumbnails):  # otherwise the buttons stay, so that no click on them is lost
            self.drawn = items, thumbnails
            self.row.clear()
            self.buttons = {}
            with self.row:
                for (entry, caption, color), thumbnail in zip(items, thumbnails):
                    self._thumbnail(entry, caption, color, *thumbnail)
            self._mark()
        await self.on_draw()

    def _thumbnail(self, entry, caption, color, content, problem):
        name = plain(entry.name)
        with ui.column().classes("w-22 gap-0 items-center"):
            if problem is None:
                button = ui.button(on_click=lambda: self._pick(entry.name))
                button.classes("w-22 h-22").props("flat padding=3px")
                button.props["aria-label"] = name
                self.buttons[entry.name] = button
                with button:
                    thumbnail = ui.element("img").classes("max-w-full max-h-20 object-contain")
                    thumbnail.props["src"] = self.pictures.url(content)
            else:
                ui.icon("broken_image", size="lg").classes("w-22 h-22 opacity-60")
                caption, color = "unreadable", BAD
            label = ui.label(name.rpartition("/")[2]).classes("w-22 text-xs text-center truncate")
            label.props["title"] = plain(problem or entry.name)
            if caption:
                ui.label(caption).classes(f"text-xs {color}")

    async def _pick(self, name):
        self.picked = name
        self._mark()
        await self.on_pick(name)

    def _mark(self):
        for name, button in self.buttons.items():
            button.style(replace="box-shadow: 0 0 0 2px #0ea5e9" if name == self.picked else "")
            button.props["aria-pressed"] = str(name == self.picked).lower()


class LeftOut:
    """Collapsible list of files that cannot be used, each with the reason; its heading counts them.

    Parameters
    ----------
    session : ReviewSession
    """

    def __init__(self, session):
        self.session, self.shown = session, []
        self.expansion = ui.expansion(icon="report_problem").classes("w-full max-w-screen-xl mx-auto")
        self.expansion.set_visibility(False)
        with self.expansion:
            self.rows = ui.column().classes("w-full gap-1 max-h-60 overflow-y-auto flex-nowrap")

    async def refresh(self):
        """Show the files that are left out now."""
        left_out = await run.io_bound(self.session.left_out)
        if left_out == self.shown:
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


class Canvas:
    """Image on which a region can be drawn."""

    def __init__(self, pictures):
        self.pictures = pictures
        self.shape, self.strokes, self.is_drawing = None, [], False
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
        self.image = ui.interactive_image(events=events, on_mouse=self._draw, sanitize=False)
        self.image.classes("w-full cursor-crosshair").style("touch-action: none")

    def show(self, image):
        """Show another image without any strokes."""
        self.shape = image.shape[:2]
        show_image(self.image, self.pictures, image)
        self.clear()

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
        self.image.content = svg(self.strokes, page_scale(self.shape)) if self.shape else ""

    def _draw(self, event):
        if self.shape is None or event.image_x is None:  # no image is shown yet
            return
        height, width = self.shape
        scale = page_scale(self.shape)
        point = min(max(event.image_x / scale, 0), width - 1), min(max(event.image_y / scale, 0), height - 1)
        if event.type == "pointerdown" and event.button == 0:
            # The slider is relative to the longer side of the image: 100 stands for a quarter of it.
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


def show_image(view, pictures, image, mask=None):
    """Show an image as large as the window allows; a tall image may need scrolling."""
    height, width = image.shape[:2]
    view.style(f"max-width: max(16rem, (100vh - 30rem) * {width / height:.4f})")
    view.set_source(pictures.url(preview(image, mask)))
