"""Take the two pictures of the demo page, and narrow ones to look at.

    python tests/demo/screenshots.py [--checkpoint storyworld] [--folder docs/images]

Starts the page, moves a slider, samples, fits a head and uses it, in a headless Chromium.
"""

import argparse
import io
import sys
from pathlib import Path

from browser import Visitor, missing
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="storyworld")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--narrow", type=Path, help="a folder for pictures of a narrow window")
    options = parser.parse_args()
    if missing():
        raise SystemExit(missing())
    from benchmarks.demo import start

    server, address = start(options.checkpoint)
    try:
        picture(address, options.folder, 1280, 1240)
        if options.narrow:
            picture(address, options.narrow, 420, 1600)
    finally:
        server.terminate()
        server.wait()


def picture(address, folder, width, height):
    folder.mkdir(parents=True, exist_ok=True)
    visitor = Visitor(address, width, height)
    try:
        visitor.move("positive", 4)
        visitor.move("music", 4)
        visitor.sample()
        save(visitor, folder / "demo-sample.png")
        visitor.tab("A head of your own")
        visitor.push(visitor.named("Who tells the story", "button, .gallery-item, td"))
        visitor.answer("#fitted", lambda: visitor.click("#fit-go"))
        visitor.slider("I")
        save(visitor, folder / "demo-head.png")
    finally:
        visitor.quit()


def save(visitor, file):
    visitor.driver.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
    picture = Image.open(io.BytesIO(visitor.driver.get_screenshot_as_png()))
    picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
