"""The review page in a real browser: Debian's chromium, without a window, driven by playwright."""

import json
import shutil
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator
from test_review import HOSTILE_NAMES, Prompted, running_page, write_folder

from sklearn_exdd import ExDDDetector, persistence
from sklearn_exdd.review import load_review

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]

SLOWLY = 400  # ms between pressing and releasing the mouse button; the page may change in the meantime


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Containers do not allow chromium's sandbox. It is not needed, because the browser opens this page only.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Yield a function that opens the page of a folder. Fail if it fetches from elsewhere or a script fails."""
    addresses, errors = [], []
    with ExitStack() as stack:

        def open_page(folder, *options, **looks):
            address = stack.enter_context(running_page(folder, *options))
            context = stack.enter_context(browser.new_context(viewport={"width": 1280, "height": 900}, **looks))
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("request", lambda request: addresses.append(request.url))
            page.on("websocket", lambda socket: addresses.append(socket.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
            page.on("console", lambda message: message.type == "error" and errors.append(message.text))
            page.goto(address)
            return page

        yield open_page
    assert errors == []
    assert {urlsplit(address).hostname for address in addresses if not address.startswith("data:")} == {"127.0.0.1"}


def draw(page, *points):
    """Draw with the mouse from point to point, given as shares of the image's width and height."""
    image = page.locator(".cursor-crosshair img").locator("visible=true")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def pick(page, name):
    """Press a thumbnail once, slowly, and wait for the image. No press may be lost, even if the thumbnails move."""
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click(delay=SLOWLY)
    page.get_by_role("button", name=name, exact=True, pressed=True).locator("visible=true").wait_for()
    page.locator(".cursor-crosshair img").locator("visible=true").wait_for()


def told(page, text):
    """Wait until the page shows a text."""
    page.get_by_text(text, exact=True).locator("visible=true").first.wait_for()


@pytest.fixture
def inspected(tmp_path, surfaces, unseen_surfaces):
    """Return a folder of parts, one of them normal but among the defects, and a detector file fitted on other parts."""
    X, y, masks = surfaces
    y, masks = y.copy(), masks.copy()
    y[np.argmin(y)], masks[np.argmin(y)] = 1, True
    detector = ExDDDetector("gabor", max_false_alarm_rate=0.5, random_state=0).fit(
        unseen_surfaces[0][unseen_surfaces[1] == 0]
    )
    joblib.dump(detector, tmp_path / "detector.joblib")
    return write_folder(tmp_path / "parts", X, y, masks), tmp_path / "detector.joblib"


def test_an_expert_makes_defects_and_corrects_a_detector(inspected, open_page):
    folder, detector_file = inspected
    normal = [entry.name for entry in folder.entries() if entry.label == 0]
    page = open_page(folder.path, "--detector", str(detector_file))
    assert "token" not in page.url

    page.get_by_role("button", name="Generate").click(delay=SLOWLY)  # the thumbnails arrive in the meantime
    told(page, "Pick an image and draw where the defect goes.")
    pick(page, normal[1])
    draw(page, (0.2, 0.3), (0.7, 0.35), (0.6, 0.6))
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Accept").click()
    told(page, "1 accepted · 0 rejected · 0 corrected")

    page.get_by_role("combobox", name="Generator").click()
    page.get_by_role("option", name="Perlin").click()
    page.get_by_role("button", name="Generate").click()
    told(page, "PerlinDefectAugmenter, seed 1.")
    page.get_by_role("button", name="Reject").click()
    told(page, "1 accepted · 1 rejected · 0 corrected")

    pick(page, normal[3])
    page.get_by_role("button", name="Box").click()
    draw(page, (0.75, 0.75), (0.25, 0.5))
    page.get_by_role("combobox", name="Generator").click()
    page.get_by_role("option", name="CutPaste").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Accept").click()
    told(page, "2 accepted · 1 rejected · 0 corrected")

    page.get_by_role("tab", name="Correct a detector").click()
    alarm, missed = (page.get_by_text(kind).locator("visible=true").first for kind in ("alarm", "missed"))
    names = []
    for wrong, verdict in ((alarm, "Really normal"), (missed, "Really a defect")):
        wrong.wait_for()
        names.append(wrong.locator("xpath=..").get_by_role("button").get_attribute("aria-label"))
        pick(page, names[-1])
        if verdict == "Really a defect":
            page.get_by_role("button", name="Outline").locator("visible=true").click()
            draw(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.6))
        page.get_by_role("button", name=verdict).click()
        told(page, f"2 accepted · 1 rejected · {len(names)} corrected")
        told(page, f"{len(names)}. {names[-1]} is {'normal' if verdict == 'Really normal' else 'a defect'}.")
    told(page, "Corrected: learned by the detector")
    told(page, "0 → 1 of 1")
    told(page, "Loaded detector → detector with all corrections.")  # without a number of images not scored
    page.get_by_role("button", name="Save the detector").click()
    told(page, "Saved as review/detectors/001.safetensors.")
    listed = page.get_by_role("button", name="normal/").locator("visible=true")  # the first page of the ranking
    shown = [button.get_attribute("aria-label") for button in listed.all()]
    others = [name for name in shown if name not in names]
    for name, undo in zip(others, ("Take back", "Undo correction 3")):
        pick(page, name)
        page.get_by_role("button", name="Really a defect").click()
        told(page, "2 accepted · 1 rejected · 3 corrected")
        told(page, f"3. {name} is a defect.")
        page.get_by_role("button", name=undo, exact=True).click()
        told(page, "2 accepted · 1 rejected · 2 corrected")
    pick(page, names[0])
    page.get_by_role("button", name="Really a defect").click()
    told(page, f"Correction 1 has already called '{names[0]}' normal. Undo it first.")

    lines = [json.loads(line) for line in (folder.path / "review" / "decisions.jsonl").read_text().splitlines()]
    whats = ["accepted", "rejected", "accepted", *["corrected"] * 3, "withdrawn", "corrected", "withdrawn"]
    assert [line["what"] for line in lines] == whats
    data = load_review(folder.path)
    assert data.y.tolist() == [1, 1, 0, 1]
    assert [own["source"] for own in data.provenance] == [normal[1], normal[3], *names]
    assert [own.get("generator") for own in data.provenance[:2]] == ["OffsetDefectAugmenter", "CutPasteDefectAugmenter"]
    masks = [mask and np.asarray(Image.open(mask)) > 0 for mask in data.masks]
    for image, mask, source in zip(data.X[:2], masks, (normal[1], normal[3])):
        np.testing.assert_array_equal(np.asarray(Image.open(image))[~mask], folder.read(source)[~mask])
    rows, columns = np.nonzero(masks[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((32, 48, 16, 48), abs=2)
    assert masks[3][22, 35]
    assert 0.03 < masks[3].mean() < 0.06
    detector = joblib.load(detector_file)
    before = detector.decision_function([folder.path / name for name in names])
    detector.partial_fit(data.X, data.y, masks=data.masks)
    assert before[0] > 0 > before[1]
    saved = persistence.load(folder.path / "review" / "detectors" / "001.safetensors")
    assert saved.corrections_ == data.provenance[2:]
    assert saved.is_training_image([folder.path / name for name in names]).all()
    assert len(detector.defect_bank_) > 0
    images = [folder.path / name for name in normal] + data.X[:2]
    ExDDDetector().fit(images, [0] * len(normal) + [1, 1], masks=[None] * len(normal) + data.masks[:2])


def test_what_is_drawn_outside_the_region_of_interest_is_cut_off_or_refused(inspected, open_page, unseen_surfaces):
    folder, detector_file = inspected
    roi = np.arange(64) < np.full((64, 1), 32)
    X, y, _ = unseen_surfaces
    joblib.dump(ExDDDetector("gabor", max_false_alarm_rate=0.5, random_state=0).fit(X[y == 0], roi=roi), detector_file)
    page = open_page(folder.path, "--detector", str(detector_file))
    refusal = "Expected a drawn region within the detector's region of interest, got one that lies entirely outside. "
    refusal += "Draw where the image is not shaded."
    cut_off = "The part of the drawn region outside the region of interest was cut off."
    pick(page, next(entry.name for entry in folder.entries() if entry.label == 0))
    told(page, "Shaded: outside the detector's region of interest.")
    page.get_by_role("button", name="Box").click()
    draw(page, (0.6, 0.2), (0.9, 0.6))
    page.get_by_role("button", name="Generate").click()
    told(page, refusal)
    draw(page, (0.2, 0.2), (0.9, 0.6))
    page.get_by_role("button", name="Generate").click()
    told(page, f"OffsetDefectAugmenter, seed 0. {cut_off}")
    page.get_by_role("button", name="Accept").click()
    told(page, "1 accepted · 0 rejected · 0 corrected")

    page.get_by_role("tab", name="Correct a detector").click()
    page.get_by_role("button", name="Close").first.click()
    tile = page.get_by_text("missed").or_(page.get_by_text("found")).locator("visible=true").first.locator("xpath=..")
    pick(page, tile.get_by_role("button").get_attribute("aria-label"))
    page.get_by_role("button", name="Box").locator("visible=true").click()
    draw(page, (0.6, 0.2), (0.9, 0.6))
    page.get_by_role("button", name="Really a defect").click()
    told(page, refusal)
    draw(page, (0.3, 0.3), (0.9, 0.6))
    other = page.context.new_page()
    other.set_default_timeout(60_000)
    other.goto(page.url)
    told(other, "1 accepted · 0 rejected · 0 corrected")
    page.get_by_role("button", name="Really a defect").click()
    told(page, f"Kept as a defect. {cut_off}")
    for one in (page, other):  # the other page follows
        told(one, "1 accepted · 0 rejected · 1 corrected")
    data = load_review(folder.path)
    assert len(data.masks) == 2
    assert not any((np.asarray(Image.open(mask)) > 0)[~roi].any() for mask in data.masks)


class SlowMaps(BaseEstimator):
    """Detector whose verdict depends on the brightness, and whose maps take time."""

    def fit(self, X, y=None):
        self.threshold_ = 0.0
        return self

    def decision_function(self, X):
        return np.array([np.asarray(Image.open(path)).mean() - 100 for path in X])

    def predict_map(self, X):
        time.sleep(3)
        return np.zeros((len(X), 64, 64)) - 1


class SlowPrompted(Prompted):
    """Augmenter that takes time."""

    def _paint(self, image, region, random_state):
        time.sleep(3)
        return super()._paint(image, region, random_state)


def test_what_is_shown_and_decided_belongs_to_the_image_that_was_clicked_last(inspected, open_page, tmp_path):
    folder, detector_file = inspected
    normal = [entry.name for entry in folder.entries() if entry.label == 0]
    joblib.dump(SlowMaps().fit(None), detector_file)
    joblib.dump(SlowPrompted().fit([folder.path / normal[0]]), tmp_path / "slow.joblib")
    page = open_page(folder.path, "--detector", str(detector_file), "--augmenter", str(tmp_path / "slow.joblib"))
    pick(page, normal[0])
    draw(page, (0.3, 0.3), (0.6, 0.6))
    page.get_by_label("Prompt").fill("a pit")
    page.get_by_role("button", name="Generate").click()
    told(page, "SlowPrompted, seed 0. “a pit”")
    accept = page.get_by_role("button", name="Accept")
    accept.wait_for()
    page.get_by_role("button", name="Generate").click()
    told(page, "Generating …")
    assert not accept.is_visible()  # the result that was shown before is no longer offered
    pick(page, normal[1])
    told(page, "The result appears here.")
    draw(page, (0.3, 0.3), (0.6, 0.6))
    page.locator("button:not(.q-btn--actionable)", has_text="Generate").wait_for(state="detached")
    assert not accept.is_visible()  # nor is the result for another image, which has come in the meantime
    page.get_by_role("button", name="Generate").click()
    accept.click()
    told(page, "1 accepted · 0 rejected · 0 corrected")
    assert [own["source"] for own in load_review(folder.path).provenance] == [normal[1]]

    page.get_by_role("tab", name="Correct a detector").click()
    page.get_by_text("passed").or_(page.get_by_text("alarm")).locator("visible=true").first.wait_for()
    buttons = page.locator("[aria-pressed]").locator("visible=true")
    names = [button.get_attribute("aria-label") for button in buttons.all()]
    shown = page.get_by_text("What the detector sees").locator("xpath=..").locator("img")
    pick(page, names[0])
    shown.locator("visible=true").wait_for()
    pick(page, names[1])
    told(page, "Computing the map …")
    assert not shown.is_visible()  # the map of the first image is not shown beside the second
    shown.locator("visible=true").wait_for()

    pick(page, names[2])
    page.get_by_role("button", name="Really a defect").click()
    told(page, "✓ defect")
    page.get_by_role("button", name=names[1], exact=True).locator("visible=true").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name=names[1], exact=True, pressed=True).locator("visible=true").wait_for()


def test_hostile_names_and_broken_files_are_shown_as_text(tmp_path, open_page, surfaces):
    folder = tmp_path / "<b>parts"
    write_folder(folder, [surfaces[0][0]])
    for name in HOSTILE_NAMES:
        shutil.copy(folder / "000.png", folder / name)
    (folder / "broken.png").write_bytes(b"not an image")
    (folder / "vector.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    Image.new("L", (64, 64)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "<i>.heic").write_bytes(b"?")
    page = open_page(folder, color_scheme="dark")
    page.get_by_text("unreadable").first.wait_for()
    assert page.get_by_text("unreadable").count() == 3
    page.get_by_text("4 files left out", exact=True).click()
    for reason in ("<i>.heic: expected an image", "broken.png: 'broken.png'", "link.png: 'link.png'", "vector.png: "):
        page.get_by_text(reason).locator("visible=true").wait_for()
    assert page.get_by_text("Review <b>parts", exact=True).is_visible()
    shown = [
        "<img src=x onerror=alert(1)>.png",
        "a\\nb.png",
        'it\'s "quoted" & `${7*7}`.png',
        "x\\udcff\\u202egnp.png",
    ]
    for name in shown:
        assert page.get_by_text(name, exact=True).is_visible()
    for name in shown[:2]:
        pick(page, name)
        draw(page, (0.3, 0.3), (0.6, 0.6))
        page.get_by_role("button", name="Generate").click()
        page.get_by_role("button", name="Accept").click()
        page.get_by_role("button", name="Accept").wait_for(state="hidden")
    page.get_by_role("tab", name="Correct a detector").click()
    told(page, "Start the page with --detector FILE to correct a fitted detector.")
    assert {own["source"] for own in load_review(folder).provenance} == set(HOSTILE_NAMES[:2])


def test_a_hostile_prompt_is_kept_and_shown_as_text(inspected, open_page, tmp_path):
    folder, _ = inspected
    prompt = "</label><script>alert(1)</script> ${7*7} `\" '; DROP"
    source = next(entry.name for entry in folder.entries() if entry.label == 0)
    joblib.dump(Prompted().fit([folder.path / source]), tmp_path / "prompted.joblib")
    page = open_page(folder.path, "--augmenter", str(tmp_path / "prompted.joblib"))
    pick(page, source)
    draw(page, (0.3, 0.3), (0.6, 0.6))
    page.get_by_role("button", name="Generate").click()
    told(page, "Describe the defect in the prompt.")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Generate").click()
    told(page, f"Prompted, seed 0. “{prompt}”")
    page.get_by_role("button", name="Accept").click()
    told(page, "1 accepted · 0 rejected · 0 corrected")
    assert load_review(folder.path).provenance[0]["prompt"] == prompt


def test_a_page_of_another_origin_can_neither_read_nor_embed_nor_post(inspected, browser):
    import http.server
    import threading

    folder, _ = inspected

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

        def log_message(self, *arguments):
            pass

    with running_page(folder.path) as address, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)  # the browser has the key now
        own = address.partition("/?")[0]
        page.goto(f"http://127.0.0.1:{evil.server_port}/")  # same site, another origin: the key is sent along
        outcome = page.evaluate(
            """async (own) => {
                const attempt = (url, options) => fetch(url, {credentials: "include", ...options})
                    .then((answer) => answer.status, () => "refused");
                const socket = new Promise((done) => {
                    const socket = new WebSocket(own.replace("http", "ws")
                        + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket");
                    socket.onopen = () => done("open");
                    socket.onerror = () => done("refused");
                });
                const frame = new Promise((done) => {
                    const frame = document.body.appendChild(document.createElement("iframe"));
                    frame.onload = () => { try { done(frame.contentDocument ? "empty" : "refused"); }
                        catch { done("refused"); } };
                    frame.src = own;
                });
                const all = async () => [
                    await attempt(own), await attempt(own + "/_nicegui_ws/socket.io/?EIO=4&transport=polling"),
                    await attempt(own, {method: "POST", body: "x"}), await socket, await frame];
                const late = new Promise((done) => setTimeout(done, 120_000, "no answer"));
                return Promise.race([all(), late]);
            }""",
            own,
        )
        assert outcome == ["refused"] * 5
        assert all("Make defects" not in frame.content() for frame in page.frames)
        context.close()
        evil.shutdown()
