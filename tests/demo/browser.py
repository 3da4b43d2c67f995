"""A headless Chromium on the demo page: what a visitor sees, clicks and moves."""

import json
import shutil

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
         "--disable-background-networking", "--no-first-run", "--force-color-profile=srgb")
PATIENCE = 120  # seconds, on a machine that is busy with other tests


def missing():
    """Why there is no browser, or ''."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}: apt-get install chromium chromium-driver" if absent else ""


class Visitor:
    """Somebody who looks at the page at an address; `quit` when done."""

    def __init__(self, address, width=1280, height=1000):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_window_size(width, height)
        self.driver.get(address)
        self.quit = self.driver.quit

    def wait(self, found, what):
        """What `found` returns, once that is something."""
        patient = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
        return patient.until(lambda _: found(), f"{what} did not come within {PATIENCE} s")

    def find(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def box(self, css):
        """The only visible element of a selector, once it is there."""
        return self.wait(lambda: next((one for one in self.find(css) if one.is_displayed()), None), css)

    def click(self, css):
        self.push(self.box(css))

    def push(self, element):
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def named(self, words, tag="button"):
        """The visible button, or other tag, with some words in it."""
        def found():
            return next((one for one in self.find(tag) if words in one.text and one.is_displayed()), None)

        return self.wait(found, f"{tag} {words!r}")

    def tab(self, name):
        self.push(self.named(name, "button[role=tab]"))

    def slider(self, label):
        """The first slider of a label."""
        css = f"input[type=range][aria-label={json.dumps(f'range slider for {label}')}]"
        return self.wait(lambda: next(iter(self.find(css)), None), f"slider {label!r}")

    def move(self, label, steps):
        """Move a slider by so many steps, with the keyboard."""
        slider = self.slider(label)
        for _ in range(abs(steps)):
            slider.send_keys(Keys.ARROW_RIGHT if steps > 0 else Keys.ARROW_LEFT)
        return float(slider.get_attribute("value"))

    def write(self, css, text):
        box = self.box(f"{css} textarea, {css} input")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text)

    def answer(self, place, press):
        """The text of an output once it is finished, after a button that makes a new one was pressed."""
        old = "document.querySelector(arguments[0] + ' [data-done]')?.setAttribute('data-done', 'old')"
        self.driver.execute_script(old, place)
        press()
        return self.wait(lambda: next((one.text for one in self.find(f"{place} [data-done='1']")), None), place)

    def texts(self, kind="ld-texts"):
        return [one.text for one in self.find(f"#drawn .{kind} p")]

    def sample(self):
        self.answer("#drawn", lambda: self.click("#go"))
        return self.texts()

    def requested(self):
        """The addresses that the browser has requested."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
