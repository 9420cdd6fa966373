"""The quickstart in a real JupyterLab, as a reader has it: run all cells, move the slider, see another picture."""

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

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = "00_quickstart"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
SCREENSHOT = ROOT / "results" / "smoke" / "browser.png"
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
    """A function from a path to its address in a JupyterLab whose folder holds the quickstart, without outputs."""
    source = json.loads((ROOT / "notebooks" / f"{NOTEBOOK}.ipynb").read_text())
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    folder, settings = tmp_path / "notebooks", tmp_path / "settings" / "@jupyterlab"
    folder.mkdir()
    (folder / f"{NOTEBOOK}.ipynb").write_text(json.dumps(source))
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


def test_the_quickstart_runs_and_its_slider_moves_the_picture(lab, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def all_of(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def picture():
        images = all_of(".jp-OutputArea-output .widget-interact img")
        return images[0].get_attribute("src") if len(images) == 1 else None  # while it is drawn anew

    def position():
        return int(browser.find_element(By.CSS_SELECTOR, ".widget-readout").get_attribute("textContent"))

    def kernel_is_ready():
        return [k["execution_state"] for k in get(lab("api/kernels")) if k["connections"]] == ["idle"]

    browser.get(lab(f"lab/tree/{NOTEBOOK}.ipynb"))
    source = json.loads((ROOT / "notebooks" / f"{NOTEBOOK}.ipynb").read_text())
    count = sum(cell["cell_type"] == "code" for cell in source["cells"])
    wait(lambda: len(all_of(".jp-Notebook .jp-CodeCell")) == count, 60, "notebook in the page")
    wait(kernel_is_ready, 60, "kernel that is ready")
    wait(lambda: browser.find_element(By.XPATH, "//*[@class='lm-MenuBar-itemLabel'][text()='Run']"), 20, "menu").click()
    wait(lambda: browser.find_element(By.CSS_SELECTOR, ".lm-Menu [data-command='runmenu:run-all']"), 20, "item").click()

    def has_run():
        prompts = [cell.get_attribute("textContent") for cell in all_of(".jp-CodeCell .jp-InputPrompt")]
        return len(prompts) == count and all(p.strip("[]:").isdigit() for p in prompts)

    try:
        wait(has_run, 120, "number at every cell")
        assert not all_of("[data-mime-type='application/vnd.jupyter.error']")
        before = wait(picture, 20, "picture under the slider")
        handle = browser.find_element(By.CSS_SELECTOR, ".widget-slider .noUi-handle")
        last = position()
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
        handle.send_keys(Keys.ARROW_LEFT)
        wait(lambda: picture() not in (None, before), 20, "other picture after the slider moved")
        assert position() == last - 1
    finally:
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(SCREENSHOT))
