"""The page of a service in a browser: a picture is dropped on it, and nobody else is asked."""

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 's3clip[serve]'")
pytest.importorskip(
    "prometheus_client", reason="prometheus_client is not installed: pip install 's3clip[serve]'"
)

from s3clip.serve import create_app
from tests.serve.client import serving
from tests.serve.test_serve import head, pictures  # noqa: F401

SIZES = {"desktop": (1280, 800), "telephone": (360, 740)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_answered_on_the_page(browser, head, pictures, size, scheme):  # noqa: F811
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    best = head.predict(image_embeds=None, images=[_opened(pictures[0])], top_k=1)[0][0]
    with serving(create_app(head, token="secret")) as address:
        page.goto(address)
        given = [{"name": "one.png", "mimeType": "image/png", "buffer": pictures[0]}]
        page.set_input_files("input[type=file]", given)
        page.wait_for_selector("#token:not([hidden])")
        assert "Authorization" in page.inner_text("#said")
        page.fill("#token input", "secret")
        page.press("#token input", "Enter")
        page.wait_for_selector("article")
        assert page.inner_text("article li:has(progress) b").split()[0] == best.label
        assert page.get_attribute("article img", "alt") == "one.png"
        assert page.eval_on_selector("article img", "image => image.naturalWidth") > 0
        given = [{"name": "two.png", "mimeType": "image/png", "buffer": b"no picture"}]
        page.set_input_files("input[type=file]", given)
        page.wait_for_selector("article:nth-of-type(2)")
        assert "not a readable image" in page.inner_text("article:first-of-type .error")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert {url.removeprefix(address).split("/")[0] for url in asked if not url.startswith("blob:")} == {
            ""
        }
    assert [each for each in wrong if "401" not in each and "favicon" not in each] == []
    page.close()


def _opened(content: bytes):
    from s3clip.images.opening import open_image

    return open_image(content)
