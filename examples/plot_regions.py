"""
Regions: where the defects are, and how large
=============================================

A detector measures the position, area and diameter of the regions that it marks. The unit is the pixel, or the
millimetre if the size of a pixel is known.
"""

# %%
# The images show fabric. A pixel is 0.1 mm wide. The detector learns from normal images only. It promises that at most
# 5 % of new normal images contain a marked pixel.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(120, image_shape=(128, 128), texture="fabric", random_state=2)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
detector = ExDDDetector("gabor", max_false_alarm_rate=0.05, blur=2, random_state=0).fit(X[normal[:60]])

# %%
# A single pass over each image gives its decision, p-value, map and regions. In this example, regions smaller than half
# a square millimetre are left out.
PIXEL = 0.1  # mm
results = detector.inspect(X, pixel_size=PIXEL, min_area=0.5)
for i in defect[:6]:
    result = results[i]
    sizes = ", ".join(f"{region.area:.1f} mm²" for region in result.regions)
    print(f"image {i}: label {result.label}, p-value {result.p_value:.3f}, region areas: {sizes}")
print(f"share of new normal images with a marked pixel: {np.mean([results[i].mask.any() for i in normal[60:]]):.3f}")

# %%
# The marked region (orange) is wider than the true mask (cyan) for two reasons. A patch beside a defect includes part
# of the defect, and the map is smoothed. A white cross marks the pixel with the highest value in each region.
shown = [i for i in defect if results[i].regions][:6]
figure, axes = plt.subplots(2, 3, figsize=(10, 7), layout="constrained")
for ax, i in zip(axes.ravel(), shown):
    size = PIXEL * np.array(X[i].shape)
    extent = (0, size[1], size[0], 0)
    ax.imshow(X[i], cmap="gray", vmin=0, vmax=255, extent=extent)
    ax.contourf(results[i].mask, [0.5, 1], colors="#E69F00", alpha=0.35, extent=extent, origin="upper")
    ax.contour(masks[i], [0.5], colors="cyan", linewidths=1, extent=extent, origin="upper")
    lines = []
    for number, region in enumerate(results[i].regions, start=1):
        top, left, bottom, right = region.box
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="#E69F00", lw=1.5))
        ax.plot(*region.peak[::-1], "x", color="white", markersize=7, markeredgewidth=2)
        ax.text(left, top, number, va="bottom", weight="bold", bbox={"facecolor": "#E69F00", "lw": 0, "pad": 1.5})
        lines.append(f"{number}: {region.area:.1f} mm², {region.equivalent_diameter:.1f} mm across")
    ax.set_title("\n".join(lines[:3]), fontsize="small", loc="left", pad=14)
    ax.set(xlabel="mm", ylabel="mm", xticks=range(0, 13, 4), yticks=range(0, 13, 4))
