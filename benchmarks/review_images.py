"""Pictures of the review page for the documentation, taken from the page itself on generated surfaces.

    python benchmarks/review_images.py docs/images

Writes review.png (the tab "Make defects") and review_corrections.png (the tab "Correct a detector" after two
corrections) into the folder. Needs chromium, and playwright from the extra test.
"""

import argparse
import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from sklearn_exdd import ExDDDetector, persistence
from sklearn_exdd.datasets import make_surface_defects

SURFACES = {"image_shape": (128, 160), "texture": "cast"}


def write_parts(folder):
    """Write images into normal/ and defect/ and masks into masks/, and return a detector fitted on other parts."""
    X, y, masks = make_surface_defects(40, random_state=0, **SURFACES)
    for i, (image, label, mask) in enumerate(zip(X, y, masks, strict=True)):
        for kind, pixels in ((("normal", "defect")[label], image), ("masks", mask))[: 1 + label]:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i:03d}.png")
    X, y, masks = make_surface_defects(24, defect_fraction=0.15, random_state=1, **SURFACES)
    return ExDDDetector("gabor", max_false_alarm_rate=0.15, random_state=0).fit(X, y, masks=masks)


@contextmanager
def served(folder, detector):
    """Serve the page, and yield its address."""
    command = [sys.executable, "-m", "sklearn_exdd.review", str(folder), "--detector", str(detector), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        try:
            yield re.search(r"http://\S+", page.stdout.readline()).group()
        finally:
            page.send_signal(signal.SIGINT)


def pick(page, caption):
    """Pick the first image with a caption, and return its name."""
    tile = page.get_by_text(caption).locator("visible=true").first.locator("xpath=..")
    button = tile.get_by_role("button")
    button.click()
    page.locator(".cursor-crosshair img").locator("visible=true").wait_for()
    return button.get_attribute("aria-label")


def draw(page, *points):
    """Draw from point to point, given as shares of the width and height of the image."""
    box = page.locator(".cursor-crosshair img").locator("visible=true").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def make_a_defect(page):
    """Draw a scratch and generate it."""
    pick(page, "004.png")
    draw(page, (0.25, 0.3), (0.4, 0.35), (0.5, 0.5), (0.62, 0.52), (0.75, 0.7))
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Accept").wait_for()


def correct_twice(page, parts):
    """Correct a miss and a false alarm, and wait for their effects."""
    page.get_by_role("tab", name="Correct a detector").click()
    for number, (caption, verdict) in enumerate((("missed", "a defect"), ("alarm", "normal")), start=1):
        name = pick(page, caption)
        page.get_by_text("P-value").wait_for()
        if caption == "missed":
            page.get_by_role("button", name="Box").locator("visible=true").click()
            left, top, right, bottom = Image.open(parts / "masks" / Path(name).name).getbbox()
            height, width = SURFACES["image_shape"]
            draw(page, (left / width, top / height), (right / width, bottom / height))
        page.get_by_role("button", name=f"Really {verdict}").click()
        row = page.get_by_text(f"{number}. {name} is").locator("xpath=..")
        row.get_by_text("New to the detector: found").wait_for()
    pick(page, "found +")
    page.get_by_text("P-value").wait_for()


def take(page, path):
    """Write a picture of the page with few colours, so that the file is small."""
    page.mouse.move(0, 0)
    page.get_by_role("alert").first.wait_for(state="hidden")
    page.wait_for_timeout(1000)  # for the animations of buttons
    pixels = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    pixels.quantize(112, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the pictures into")
    folder = parser.parse_args().folder
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        parts, file = Path(temporary, "parts"), Path(temporary, "detector.safetensors")
        persistence.dump(write_parts(parts), file)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with served(parts, file) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 740}, color_scheme="light")
            page.goto(address)
            make_a_defect(page)
            take(page, folder / "review.png")
            correct_twice(page, parts)
            take(page, folder / "review_corrections.png")
        browser.close()


if __name__ == "__main__":
    main()
