"""Edit the synonyms of a class and see what changes: logits, matched texts, the complex.

    pip install 's3clip[app]'
    python examples/app.py --backbone openai/clip-vit-base-patch32 --classes pets.json

Without arguments it reads digits with the small CLIP that comes with s3clip. It runs as a Hugging Face
Space as it is; the environment variables S3CLIP_BACKBONE and S3CLIP_CLASSES stand for the arguments there.
"""

import argparse
import html
import os
import tempfile
from pathlib import Path

import gradio as gr
import torch

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.backbone.backbone import Backbone
from s3clip.demo import model_folder, synonym_file
from s3clip.images.opening import open_image
from s3clip.inspection.page import page_data, render_page

MOST_IMAGES = 32
MOST_SYNONYMS = 200
HEADER = ["image", "class", "logit", "change", "probability", "matched text"]
FRAME = 'sandbox="allow-scripts" title="complex" style="width:100%;height:44rem;border:0"'
Images = tuple[list[str], torch.Tensor | None]
"""Names of files, and their embeddings if there are any."""

Logits = dict[tuple[int, int], float]
"""By image and class."""

THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class Editor:
    """What the app does, without its widgets.

    Args:
        backbone: the model of all visitors.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def fitted(self, synonyms: SynonymSet) -> SynonymousSpaceHead:
        """Return a head with these classes."""
        return SynonymousSpaceHead(self.backbone).fit_classes(synonyms, progress=False)

    def encode(self, files: list[str] | None) -> Images:
        """Return the names of the files, and their embeddings."""
        if not files:
            return [], None
        if len(files) > MOST_IMAGES:
            raise gr.Error(f"{len(files)} images are more than the {MOST_IMAGES} that this app takes at once")
        try:
            pictures = [open_image(file) for file in files]
        except ValueError as error:
            raise gr.Error(f"{Path(str(error)).name}") from error
        with torch.inference_mode():
            embeds = self.backbone.encode_images(**self.backbone.preprocess(pictures))
        return [Path(file).name for file in files], embeds

    def show(
        self, synonyms: SynonymSet, position: int, images: Images, before: Logits
    ) -> tuple[list[list[str]], str, Logits]:
        """Return the rows of the table, the page with one class open, and the logits to compare with next."""
        head = self.fitted(synonyms)
        data = page_data(head) | {"open": position}
        page = html.escape(render_page(data, title="The space"), quote=True)
        files, embeds = images
        rows, now = [], {}
        if embeds is not None:
            with torch.inference_mode():
                logits = head(image_embeds=embeds).tolist()
            now = {(i, c): logit for i, own in enumerate(logits) for c, logit in enumerate(own)}
            for i, (file, answer) in enumerate(
                zip(files, head.predict(image_embeds=embeds, top_k=3), strict=True)
            ):
                for each in answer:
                    at = i, each.class_index
                    change = f"{now[at] - before[at]:+.2f}" if at in before else ""
                    row = [file, each.label, f"{now[at]:.2f}", change, f"{each.score:.1%}", each.text or ""]
                    rows.append(row)
        return rows, f'<iframe {FRAME} srcdoc="{page}"></iframe>', now

    def words(self, synonyms: SynonymSet, position: int) -> str:
        """Return the synonyms of a class, one a line."""
        return "\n".join(synonyms.classes[position].synonyms)

    def edit(self, synonyms: SynonymSet, position: int, words: str) -> SynonymSet:
        """Return the classes with other synonyms for one of them."""
        own = list(dict.fromkeys(line.strip() for line in words.splitlines() if line.strip()))
        if len(own) > MOST_SYNONYMS:
            raise gr.Error(f"{len(own)} synonyms are more than the {MOST_SYNONYMS} that this app takes")
        content = synonyms.model_dump(exclude_none=True) | {"format": "s3clip-synonyms/1"}
        classes = [each.model_dump() for each in synonyms.classes]
        classes[position]["synonyms"] = own
        try:
            return SynonymSet.read(content | {"classes": classes})
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def save(self, synonyms: SynonymSet) -> str:
        """Write the synonym file, and return where it is."""
        path = Path(tempfile.mkdtemp()) / "synonyms.json"
        synonyms.write(path)
        return str(path)

    def push(self, synonyms: SynonymSet, repository: str, token: str) -> str:
        """Push the space, and say where it is. The token of whoever runs the app is never used."""
        if not (token := token.strip()):
            raise gr.Error("Paste a token of yours that may write; it is used for this push and not kept")
        try:
            return f"Pushed to {self.fitted(synonyms).push_to_hub(repository.strip(), token=token)}"
        except (OSError, ValueError) as error:
            raise gr.Error(str(error).replace(token, "***")) from None


def build(backbone: Backbone, start: SynonymSet) -> gr.Blocks:
    """Return the app for one model, beginning with some classes."""
    editor = Editor(backbone)
    with gr.Blocks(title="s3clip", analytics_enabled=False) as app:
        synonyms, images, before = gr.State(start), gr.State(([], None)), gr.State({})
        gr.Markdown("# s3clip: edit synonyms, see what changes")
        with gr.Row():
            with gr.Column():
                files = gr.File(label="Images", file_count="multiple", file_types=["image"], type="filepath")
                # By position: two classes may have one name.
                names = [(each, position) for position, each in enumerate(start.class_names)]
                position = gr.Dropdown(names, value=0, label="Class")
                words = gr.Textbox(
                    editor.words(start, 0), label="Synonyms, one a line", lines=8, elem_id="words"
                )
                apply = gr.Button("Apply", variant="primary", elem_id="apply")
                download = gr.DownloadButton("Save the synonym file", elem_id="save")
                with gr.Accordion("Push the space to the Hub", open=False):
                    repository = gr.Textbox(label="Repository, user/name")
                    token = gr.Textbox(label="Token", type="password")
                    pushed = gr.Button("Push")
                    answer = gr.Markdown()
            with gr.Column():
                table = gr.Dataframe(
                    headers=HEADER, label="Logits", interactive=False, elem_id="logits", wrap=True
                )
                drawn = gr.HTML()
        shown = {
            "fn": editor.show,
            "inputs": [synonyms, position, images, before],
            "outputs": [table, drawn, before],
        }
        app.load(**shown)
        files.change(editor.encode, files, images).success(lambda: {}, None, before).then(**shown)
        position.change(editor.words, [synonyms, position], words).then(**shown)
        apply.click(editor.edit, [synonyms, position, words], synonyms).success(**shown)
        download.click(editor.save, synonyms, download)
        pushed.click(editor.push, [synonyms, repository, token], answer)
    return app.queue(max_size=32, default_concurrency_limit=1)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=os.environ.get("S3CLIP_BACKBONE", str(model_folder())))
    parser.add_argument("--classes", default=os.environ.get("S3CLIP_CLASSES", str(synonym_file())))
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    app = build(Backbone.from_pretrained(given.backbone), SynonymSet.read(given.classes))
    app.launch(server_port=given.port, theme=THEME, max_file_size="10mb")


if __name__ == "__main__":
    main()
