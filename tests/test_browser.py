"""Notebooks in a real JupyterLab, as a reader has them: run all cells, move a slider, upload a photo."""

import base64
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = ROOT / "results" / "smoke"
SETTINGS = {  # the whole notebook is in the page, and nobody is asked about news
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait(condition, seconds, what):
    """Wait for what `condition` returns to be true, and return it."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (NoSuchElementException, StaleElementReferenceException, OSError):
            pass  # not yet there, or just drawn anew
        time.sleep(0.2)
    raise TimeoutError(f"after {seconds} s still no {what}")


def get(address):
    with urllib.request.urlopen(address, timeout=5) as answer:
        return json.load(answer)


@pytest.fixture
def lab(tmp_path):
    """A function from a path to its address in a JupyterLab whose folder holds two notebooks, without outputs."""
    folder, settings = tmp_path / "notebooks", tmp_path / "settings" / "@jupyterlab"
    folder.mkdir()
    for name in ("00_quickstart", "14_any_photo"):
        source = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
        for cell in source["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        (folder / f"{name}.ipynb").write_text(json.dumps(source))
    for name, values in SETTINGS.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port, token = free_port(), secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    command += [f"--LabApp.user_settings_dir={settings.parent}", f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}"]

    def address(path):
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    environment = os.environ | {"SCALE": "smoke", "PDM_RESULTS": str(tmp_path / "results")}
    with open(tmp_path / "lab.log", "w") as log, subprocess.Popen(command, env=environment, stderr=log) as server:
        try:
            wait(lambda: get(address("api/status")), 60, "answer from JupyterLab")
            yield address
        finally:
            server.terminate()  # its kernels go with it


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def run_all(lab, browser, notebook, seconds):
    """Open a notebook, run all its cells by the menu, and wait until each has a number and none an error."""

    def kernel_is_ready():
        return [k["execution_state"] for k in get(lab("api/kernels")) if k["connections"]] == ["idle"]

    def has_run():
        prompts = [cell.get_attribute("textContent") for cell in all_of(browser, ".jp-CodeCell .jp-InputPrompt")]
        return len(prompts) == count and all(p.strip("[]:").isdigit() for p in prompts)

    browser.get(lab(f"lab/tree/{notebook}.ipynb"))
    source = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
    count = sum(cell["cell_type"] == "code" for cell in source["cells"])
    wait(lambda: len(all_of(browser, ".jp-Notebook .jp-CodeCell")) == count, 60, "notebook in the page")
    wait(kernel_is_ready, 60, "kernel that is ready")
    run = "//*[@class='lm-MenuBar-itemLabel'][text()='Run']"
    wait(lambda: browser.find_element("xpath", run), 20, "menu").click()
    wait(lambda: all_of(browser, ".lm-Menu [data-command='runmenu:run-all']"), 20, "item")[0].click()
    wait(has_run, seconds, "number at every cell")
    assert not all_of(browser, "[data-mime-type='application/vnd.jupyter.error']")


def saved(browser, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / name))


def test_the_quickstart_runs_and_its_slider_moves_the_picture(lab, browser):
    from selenium.webdriver.common.keys import Keys

    def picture():
        images = all_of(browser, ".jp-OutputArea-output .widget-interact img")
        return images[0].get_attribute("src") if len(images) == 1 else None  # while it is drawn anew

    def position():
        return int(all_of(browser, ".widget-readout")[0].get_attribute("textContent"))

    try:
        run_all(lab, browser, "00_quickstart", 120)
        before = wait(picture, 20, "picture under the slider")
        handle = all_of(browser, ".widget-slider .noUi-handle")[0]
        last = position()
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
        handle.send_keys(Keys.ARROW_LEFT)
        wait(lambda: picture() not in (None, before), 20, "other picture after the slider moved")
        assert position() == last - 1
    finally:
        saved(browser, "browser.png")


def test_a_photo_that_is_uploaded_is_restored_and_can_be_downloaded(lab, browser, tmp_path):
    values = pictures.coffee()[100:180, 200:296]
    Image.fromarray(values).save(tmp_path / "cup.jpg", quality=95)
    # the widget keeps its input out of the page: here it is put in, where a driver can give it a file
    found = "HTMLInputElement.prototype.click = function() { this.id = 'chosen'; document.body.appendChild(this) }"
    try:
        run_all(lab, browser, "14_any_photo", 240)
        browser.execute_script(found)
        button = all_of(browser, ".jupyter-widgets.widget-upload")[0]
        browser.execute_script("arguments[0].click()", button)
        wait(lambda: all_of(browser, "#chosen"), 20, "input of files")[0].send_keys(str(tmp_path / "cup.jpg"))
        link = wait(lambda: all_of(browser, "a[download='cup_sharp.png']"), 120, "download")[0]
        data = base64.b64decode(link.get_attribute("href").partition("base64,")[2])
        with Image.open(io.BytesIO(data)) as sharp:
            assert sharp.size == (96, 80) and np.asarray(sharp).std() > 10
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    finally:
        saved(browser, "browser_upload.png")
