"""The page in a real browser, with a camera that plays a real clip."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import uvicorn

from demo_app.detection import make_detector
from demo_app.parameters import Parameters
from demo_app.sources import Video
from demo_app.web import MAX_MESSAGE_BYTES, make_app
from fer_ml.base.ports import open_port
from tests.axe import AXE, SCHEMES, WIDTHS, violations

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
TOKEN = "t0ken"


@pytest.fixture
def film(clips: list[Path], tmp_path: Path) -> Path:
    """One real face as a camera would give it: 640x480, as the MJPEG that Chromium plays."""
    path = tmp_path / "camera.mjpeg"
    with Video(clips[-1]) as video, path.open("wb") as file:
        for frame in video.frames():
            image = cv2.resize(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), (640, 480))
            file.write(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    return path


@pytest.fixture
def link(bundle, tmp_path: Path) -> Iterator[str]:
    listener = open_port(0)
    port = listener.getsockname()[1]
    app = make_app(
        bundle,
        lambda: make_detector("yunet"),
        Parameters(unsure_below=0.1),
        tmp_path / "rec",
        token=TOKEN,
        port=port,
    )
    config = uvicorn.Config(app, log_level="critical", ws_max_size=MAX_MESSAGE_BYTES)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture
def page(film: Path) -> Iterator["sync_api.Page"]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={film}",
            ],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
        yield page
        browser.close()


def until(page: "sync_api.Page", condition: str) -> None:
    """Wait for a condition; the page's policy keeps Playwright's own way from evaluating it."""
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{condition} did not come true")


def test_a_camera_is_read_labelled_and_recorded(
    page: "sync_api.Page", link: str, tmp_path: Path
) -> None:
    expect = sync_api.expect
    page.goto(link)
    # By keyboard alone: behind the student's card, the camera is the first thing in the tab order.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#now[data-state=label]")).to_be_visible(timeout=15_000)
    expect(page.locator("#detector")).to_have_text("yunet")
    until(page, "page.trips.length === 30")
    shown = page.locator("#now strong").inner_text()
    values = page.locator("#bars .value").all_inner_texts()
    assert len(values) == 7
    assert sum(int(value.rstrip("%")) for value in values) == pytest.approx(100, abs=4)
    assert page.locator("#bars button").all_inner_texts()[3].endswith("Happy")
    expect(page.locator("#said")).to_have_text(shown)
    assert page.evaluate("page.last.faces.length") == 1
    drawn = page.evaluate(
        "boxes.getContext('2d').getImageData(0, 0, boxes.width, boxes.height).data.some(v => v)"
    )
    assert drawn
    assert not (tmp_path / "rec").exists()

    page.keyboard.press("4")
    happy = page.get_by_role("button", name="4Happy")
    expect(happy).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("0")
    expect(happy).to_have_attribute("aria-pressed", "false")

    page.keyboard.press("r")
    expect(page.get_by_role("dialog")).to_contain_text("Every frame of your camera is stored")
    page.keyboard.press("Enter")  # The answer that has the focus is no.
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert not (tmp_path / "rec").exists()
    page.keyboard.press("r")
    page.get_by_role("button", name="I agree, record").click()
    expect(page.locator("#recording-mark")).to_be_visible()
    until(page, "page.last.recording && page.last.index > 5")
    page.keyboard.press("r")
    expect(page.locator("#stored")).to_contain_text("Stored in")
    expect(page.locator("#recording-mark")).to_be_hidden()
    (folder,) = (tmp_path / "rec").iterdir()
    assert len(list((folder / "frames").glob("*.jpg"))) > 5
    assert page.faults == []

    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#replay-mark")).to_be_visible()
    until(page, "page.last.type === 'replay' && byId('replayed').naturalWidth === 640")
    expect(page.locator("#replay-mark")).to_be_hidden(timeout=20_000)
    frames = len(list((folder / "frames").glob("*.jpg")))
    assert page.evaluate("page.last.type !== 'replay' || page.last.index") in (True, frames - 1)
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#score-figures dd").first).to_have_text(str(frames))
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Delete…").click()
    page.keyboard.press("Enter")  # The answer that has the focus is to keep it.
    assert folder.is_dir()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#recorded")).to_be_hidden()
    assert not folder.exists()
    until(page, "page.last.type === 'frame'")
    assert page.faults == []


def test_the_models_name_leads_to_its_card(page: "sync_api.Page", link: str, bundle) -> None:
    page.goto(link)
    page.get_by_role("link", name=bundle.card.name).click()
    sync_api.expect(page.locator("h1")).to_contain_text(bundle.card.name)
    sync_api.expect(page.locator("main")).to_contain_text(bundle.card.model_sha256)
    page.get_by_role("link", name="Back").click()
    sync_api.expect(page.get_by_role("button", name="Start the camera")).to_be_visible()
    assert page.faults == []


def test_nothing_is_wider_than_a_phone_and_every_control_has_a_name(
    page: "sync_api.Page", link: str
) -> None:
    page.set_viewport_size({"width": 375, "height": 780})
    page.goto(link)
    page.get_by_role("button", name="Start the camera").click()
    sync_api.expect(page.locator("#now[data-state=label]")).to_be_visible(timeout=15_000)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None and box["height"] >= 24 and box["width"] >= 24
        assert button.evaluate("node => (node.ariaLabel || node.innerText).trim().length") > 0
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.faults == []


@pytest.mark.skipif(AXE is None, reason="AXE_CORE names no axe.min.js")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(page: "sync_api.Page", link: str, width: int, scheme: str) -> None:
    """On the page at rest, at work, with its questions open, and on the card."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 850})
    page.goto(link)
    assert violations(page) == []
    page.get_by_role("button", name="Start the camera").click()
    sync_api.expect(page.locator("#now[data-state=label]")).to_be_visible(timeout=15_000)
    for summary in page.locator("summary").all():
        summary.click()
    assert violations(page) == []
    for dialog in ("consent", "scores", "deletion"):
        page.evaluate(f"byId('{dialog}').showModal()")
        assert violations(page) == []
        page.evaluate(f"byId('{dialog}').close()")
    page.locator("#model").click()
    page.locator("h1").wait_for()
    assert violations(page) == []


def test_a_server_that_goes_is_told_and_the_camera_let_go(page: "sync_api.Page", link: str) -> None:
    page.goto(link)
    page.get_by_role("button", name="Start the camera").click()
    sync_api.expect(page.locator("#now[data-state=label]")).to_be_visible(timeout=15_000)
    page.evaluate("page.retries = 5; page.socket.close()")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("fer demo web")
    assert page.evaluate("video.srcObject.active") is False
