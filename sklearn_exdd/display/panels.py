"""Panels of a display: their layout, and the images and outlines drawn in them."""

import numpy as np

# Okabe-Ito colours. Each kind of line also has its own dashes, so that it can be recognised in grey print and with any
# colour vision.
MASK_LINE = {"color": "#56B4E9", "linestyle": "solid"}
MAP_LINE = {"color": "#E69F00", "linestyle": (0, (4, 1.5))}
PEAK_LINE = {"color": "#E69F00", "linestyle": (0, (4, 1.5, 1, 1.5))}
PATCH_LINE = {"color": "#F0E442", "linestyle": (0, (1.5, 1))}


def new_axes(shapes, n_panels, n_columns, n_lines, *, n_title_lines=2, width=2.2, bar=False):
    """Create a figure and position its panels in inches.

    The positions are computed here, because no layout engine packs images of different sizes.

    Parameters
    ----------
    shapes : list of tuple of int (height, width, ...)
        Shapes of the images. All panels of an image have the same size.
    n_panels : int
        Number of panels per image.
    n_columns : int
        Number of images side by side.
    n_lines : int
        Number of lines of text below each image.
    n_title_lines : int, default=2
        Number of lines of text above each image.
    width : float, default=2.2
        Width of a panel, in inches.
    bar : bool, default=False
        Whether to create axes for a colour bar on the right.

    Returns
    -------
    axes : ndarray of shape (n_images, n_panels), dtype object
        Axes of the panels.
    bar : matplotlib Axes or None
        Axes of the colour bar, or None if `bar` is False.
    """
    import matplotlib.pyplot as plt

    gap, title, below, legend = 0.08, 0.13 + 0.16 * n_title_lines, 0.15 + 0.16 * n_lines, 0.35
    # Each panel is as large as fits into a box of the given width and of 4/3 of this width as the height.
    sizes = [np.array(shape[:2]) * min(width / shape[1], 4 / 3 * width / shape[0]) for shape in shapes]
    heights = [max(height for height, _ in sizes[i : i + n_columns]) for i in range(0, len(sizes), n_columns)]
    tops = np.cumsum([0.05 + title] + [height + below + title for height in heights])
    group = n_panels * (width + gap) + 0.15
    beside = 0.3 * bar  # room for the text to the left of the colour bar
    # The colour bar must be high enough for its label, even if the images are flat.
    bar_height = max(tops[-1] - title - below - tops[0], 1.9 if bar else 0)
    total = np.array([0.1 + n_columns * group + beside + 0.8 * bar, tops[0] + bar_height + below + legend])
    figure = plt.figure(figsize=total)

    def add_axes(left, top, height, width):
        return figure.add_axes((left / total[0], 1 - (top + height) / total[1], width / total[0], height / total[1]))

    axes = np.empty((len(shapes), n_panels), dtype=object)
    for i, j in np.ndindex(axes.shape):
        row, column = divmod(i, n_columns)
        axes[i, j] = add_axes(0.1 + column * group + j * (sizes[i][1] + gap), tops[row], *sizes[i])
    return axes, add_axes(0.1 + n_columns * group + beside, tops[0], bar_height, 0.16) if bar else None


def show(ax, image, white):
    """Show a grey or RGB image without ticks."""
    image = np.clip(image / (white or 1), 0, 1)
    ax.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], autoscale_on=False, anchor="NW")


def outline(ax, values, level, line):
    """Outline the pixels whose values exceed a level. At the border of the image, the outline follows the border."""
    height, width = values.shape
    values = np.pad(values, 1, mode="edge")
    border = np.ones(values.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    # The values of the added border are mirrored at the level. The line then lies halfway between the outer pixels and
    # the added border, which is on the edge of the panel.
    values[border] = np.minimum(values[border], 2 * level - values[border])
    place = np.arange(-1, width + 1), np.arange(-1, height + 1)
    lines = ax.contour(*place, values, [level], colors=line["color"], linewidths=1.3)
    lines.set(linestyle=line["linestyle"], path_effects=_halo(), clip_on=False)


def mark_level(colorbar, level, text):
    """Mark a value on the left of a colour bar: an arrow, if the scale holds the value, and a text along the bar."""
    low, high = colorbar.vmin, colorbar.vmax
    share = np.clip((level - low) / (high - low), 0, 1)
    if low <= level <= high:
        place = colorbar.ax.get_yaxis_transform()
        arrow = {"marker": 5, "markersize": 8, "color": MAP_LINE["color"], "clip_on": False}  # 5: its tip is the place
        colorbar.ax.plot([0], [level], transform=place, **arrow)
    colorbar.ax.annotate(
        text,
        (0, share),
        xycoords="axes fraction",
        xytext=(-9, 0),
        textcoords="offset points",
        rotation=90,
        fontsize="x-small",
        ha="right",
        va="bottom" if share < 0.5 else "top",
        annotation_clip=False,
    )


def box(ax, center, side):
    """Draw a box around a patch."""
    from matplotlib.patches import Rectangle

    corner = (center[1] - side / 2, center[0] - side / 2)
    ax.add_patch(Rectangle(corner, side, side, fill=False, linewidth=1.5, path_effects=_halo(), **PATCH_LINE))


def write_legend(axes, lines, below):
    """Write a legend of the lines below the panels (if `below` is True) or inside the axes of the first panel."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=2, label=label, **line) for label, line in lines.items()]
    if below:
        axes[0, 0].figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    else:
        axes[0, 0].legend(handles=handles, fontsize="x-small", loc="lower left")


def _halo():
    """Return path effects that give a line a dark edge, so that a light line is visible on a light surface."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2.2, foreground="black", alpha=0.5), Normal()]
