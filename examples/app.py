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
from typing import Any

import gradio as gr
import torch

from s3clip import SynonymousSpaceHead, SynonymSet
from s3clip.backbone import Backbone
from s3clip.demo import model_folder, synonym_file
from s3clip.images import open_image
from s3clip.inspection.page import page_data, render_page

MOST_IMAGES = 32
MOST_SYNONYMS = 200
HEADER = ["image", "class", "logit", "change", "probability", "matched text"]
FRAME = 'sandbox="allow-scripts" title="complex" style="width:100%;height:44rem;border:0"'
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build(backbone: Backbone, start: SynonymSet) -> gr.Blocks:  # noqa: C901  # its callbacks are one each
    """Return the app for one model, beginning with some classes."""

    def fitted(synonyms: SynonymSet) -> SynonymousSpaceHead:
        return SynonymousSpaceHead(backbone).fit_classes(synonyms, progress=False)

    def encode(files: list[str] | None) -> tuple[list[str], torch.Tensor | None]:
        if not files:
            return [], None
        if len(files) > MOST_IMAGES:
            raise gr.Error(f"{len(files)} images are more than the {MOST_IMAGES} that this app takes at once")
        try:
            pictures = [open_image(file) for file in files]
        except ValueError as error:
            raise gr.Error(f"{Path(str(error)).name}") from error
        with torch.inference_mode():
            embeds = backbone.encode_images(**backbone.preprocess(pictures))
        return [Path(file).name for file in files], embeds

    def shown(
        synonyms: SynonymSet,
        name: str,
        images: tuple[list[str], torch.Tensor | None],
        before: dict[Any, float],
    ) -> tuple[list[list[Any]], str, dict[Any, float]]:
        head = fitted(synonyms)
        rows, logits_now = [], {}
        files, embeds = images
        if embeds is not None:
            with torch.inference_mode():
                logits = head(image_embeds=embeds)
            answers = head.predict(image_embeds=embeds, top_k=3)
            for i, (file, answer) in enumerate(zip(files, answers, strict=True)):
                for each in answer:
                    logit = logits[i, each.class_index].item()
                    change = f"{logit - before[i, each.label]:+.2f}" if (i, each.label) in before else ""
                    rows.append([file, each.label, f"{logit:.2f}", change, f"{each.score:.1%}", each.text])
                logits_now |= {(i, label): logits[i, c].item() for c, label in enumerate(head.class_names)}
        return rows, complex_of(head, name), logits_now

    def complex_of(head: SynonymousSpaceHead, name: str) -> str:
        data = page_data(head)
        own = head.class_names.index(name)
        data["open"] = own
        page = html.escape(render_page(data, title="The space"), quote=True)
        return f'<iframe {FRAME} srcdoc="{page}"></iframe>'

    def words_of(synonyms: SynonymSet, name: str) -> str:
        return "\n".join(synonyms.classes[synonyms.class_names.index(name)].synonyms)

    def edit(synonyms: SynonymSet, name: str, words: str) -> SynonymSet:
        own = list(dict.fromkeys(line.strip() for line in words.splitlines() if line.strip()))
        if len(own) > MOST_SYNONYMS:
            raise gr.Error(f"{len(own)} synonyms are more than the {MOST_SYNONYMS} that this app takes")
        classes = [
            {**each.model_dump(), "synonyms": own} if each.name == name else each.model_dump()
            for each in synonyms.classes
        ]
        content = synonyms.model_dump(exclude_none=True) | {"format": "s3clip-synonyms/1", "classes": classes}
        try:
            return SynonymSet.read(content)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def save(synonyms: SynonymSet) -> str:
        path = Path(tempfile.mkdtemp()) / "synonyms.json"
        synonyms.write(path)
        return str(path)

    def push(synonyms: SynonymSet, repository: str, token: str) -> str:
        # Never the token of whoever runs the app: a visitor of a Space would push with it.
        if not token.strip():
            raise gr.Error("Paste a token of yours that may write; it is used for this push and not kept")
        try:
            return f"Pushed to {fitted(synonyms).push_to_hub(repository.strip(), token=token.strip())}"
        except (OSError, ValueError) as error:
            raise gr.Error(str(error).replace(token.strip(), "***")) from None

    with gr.Blocks(title="s3clip", analytics_enabled=False) as app:
        synonyms, images, before = gr.State(start), gr.State(([], None)), gr.State({})
        gr.Markdown("# s3clip: edit synonyms, see what changes")
        with gr.Row():
            with gr.Column():
                files = gr.File(label="Images", file_count="multiple", file_types=["image"], type="filepath")
                name = gr.Dropdown(start.class_names, value=start.class_names[0], label="Class")
                words = gr.Textbox(
                    words_of(start, start.class_names[0]),
                    label="Synonyms, one a line",
                    lines=8,
                    elem_id="words",
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
        outputs = [table, drawn, before]
        app.load(shown, [synonyms, name, images, before], outputs)
        files.change(encode, files, images).success(lambda: {}, None, before).then(
            shown, [synonyms, name, images, before], outputs
        )
        name.change(words_of, [synonyms, name], words).then(shown, [synonyms, name, images, before], outputs)
        apply.click(edit, [synonyms, name, words], synonyms).success(
            shown, [synonyms, name, images, before], outputs
        )
        download.click(save, synonyms, download)
        pushed.click(push, [synonyms, repository, token], answer)
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
