"""
Your own folder of images
=========================

This example starts from a folder of image files. It ends with decisions, maps and a saved detector. The folder is
generated. Replace it with the path of your own folder.
"""

# %%
# The folder
# ----------
# ``good/`` holds images of normal parts, and ``defect/`` holds images of defects. ``defect/`` may have one subfolder
# for each kind of defect. ``masks/`` holds the masks. Each mask has the same file name as its image. Images may differ
# in size. Masks and defects are optional.
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from sklearn_exdd import DefectMapDisplay, ExDDDetector, persistence
from sklearn_exdd.datasets import load_folder, make_surface_defects

temporary = TemporaryDirectory()
folder = Path(temporary.name)
for shape, seed in (((160, 224), 0), ((224, 160), 1)):
    for i, (image, label, mask) in enumerate(
        zip(*make_surface_defects(40, image_shape=shape, texture="fabric", random_state=seed))
    ):
        kind = "defect" if label else "good"
        for place, pixels in ((kind, image), ("masks", mask))[: 1 + label]:
            (folder / place).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / place / f"{shape[0]}x{shape[1]}-{i:02}.png")

data = load_folder(folder)
print(f"{len(data.X)} files, including {data.y.sum()} defects; the first is {data.X[0].relative_to(folder)}.")

# %%
# Split, fit, predict
# -------------------
# The images are passed as a list of paths. Files are read in batches, so memory use does not grow with the number of
# images. This example splits the images at random. If several images show the same part, split them by part with
# ``GroupShuffleSplit`` instead. One false alarm in twenty normal images is allowed. This test set is too small to check
# whether the rate is met.
train, test = train_test_split(np.arange(len(data.X)), test_size=0.5, stratify=data.y, random_state=0)


def take(values, indices):
    return [values[i] for i in indices]


detector = ExDDDetector(max_false_alarm_rate=0.05, random_state=0)
detector.fit(take(data.X, train), data.y[train], masks=take(data.masks, train))
scores = detector.score_samples(take(data.X, test))
display = ConfusionMatrixDisplay.from_predictions(
    data.y[test], scores > detector.threshold_, display_labels=["normal", "defect"], cmap="Greys", colorbar=False
)
display.ax_.set_title(f"Decisions on {len(test)} new images")

# %%
# Highest scores first
# --------------------
# The images with the highest scores come first. The map of an image shows where its score comes from.
# The solid line is the outline of the true mask. In images called defects, the dashed line encloses
# the pixels whose map exceeds the pixel threshold. An arrow at the colour bar marks this threshold.
# The enclosed area is wider than the defect, because a patch also covers the surroundings of a defect.
worst = test[np.argsort(-scores)[:6]]
DefectMapDisplay.from_estimator(detector, take(data.X, worst), data.y[worst], masks=take(data.masks, worst))

# %%
# Save and load
# -------------
# A fitted detector is saved as one file. Loading it runs no code, and the loaded detector gives
# bit-identical scores.
path = folder / "detector.safetensors"
persistence.dump(detector, path)
again = persistence.load(path)
print(f"{path.stat().st_size / 2**20:.1f} MiB on disk.")
print("Identical scores after loading:", np.array_equal(again.score_samples(take(data.X, test)), scores))
temporary.cleanup()

# sphinx_gallery_thumbnail_number = 2
