"""The widgets of the app, and what each of them starts."""

import html
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from s3clip.app.editor import Editor, Photos, answers_html, edited, is_edited, words_of
from s3clip.backbone.backbone import Backbone
from s3clip.texts.synonyms import SynonymSet

# What the theme has in these places is fainter than 4.5 to 1.
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    input_placeholder_color="*neutral_600",
    input_placeholder_color_dark="*neutral_300",
    link_text_color_dark="*primary_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
)
FRAME = 'sandbox="allow-scripts" title="The space of the class" style="width:100%;height:44rem;border:0"'
CSS = """
#answers figure {display: grid; grid-template-columns: 7rem 1fr; gap: 0 1rem; margin: 0 0 1.25rem}
#answers img {width: 7rem; height: 7rem; object-fit: contain; grid-row: span 2; image-rendering: auto}
#answers figcaption {font-weight: 600; overflow-wrap: anywhere}
#answers table {border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums}
#answers table, #answers table * {border: 0 !important}
#answers th, #answers td {text-align: left; vertical-align: top; padding: .1rem .6rem .1rem 0}
#answers th, #answers td {overflow-wrap: break-word; word-break: normal}
#question {padding: .5rem .75rem}
#answers thead th {font-weight: 400}
@media (max-width: 480px) {
  #answers figure {grid-template-columns: 1fr} #answers img {grid-row: auto}
  #answers table {font-size: .85rem} #answers th, #answers td {padding-right: .4rem}
}
"""

Update = dict[str, Any]


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its ValueErrors shown on the page."""

    @wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), duration=None) from error

    return guarded


def build(backbone: Backbone, start: SynonymSet) -> gr.Blocks:
    """Return the app for one model, beginning with some classes."""
    editor = Editor(backbone)

    def show(synonyms: SynonymSet, position: int, photos: Photos, before: Any) -> tuple[Any, ...]:
        found = editor.show(synonyms, position, photos, before)
        page = html.escape(found.space, quote=True)
        warned = "\n".join(f"- {html.escape(each)}" for each in found.warnings)
        return (
            answers_html(photos, found.answers),
            f'<iframe {FRAME} srcdoc="{page}"></iframe>',
            found.logits,
            gr.Markdown(warned, visible=bool(warned)),
            editor.save(synonyms),
        )

    def choose(synonyms: SynonymSet, wanted: int, shown: int, words: str) -> tuple[Any, ...]:
        """Show another class, or ask first if the words of this one would be lost."""
        if wanted != shown and is_edited(synonyms, shown, words):
            name = synonyms.classes[shown].name
            question = f"The words of **{html.escape(name)}** were edited and not applied."
            return shown, words, gr.Group(visible=True), question, shown
        return wanted, words_of(synonyms, wanted), gr.Group(visible=False), "", wanted

    with gr.Blocks(title="s3clip", analytics_enabled=False) as app:
        synonyms, photos, before = gr.State(start), gr.State(Photos()), gr.State({})
        shown_class, wanted_class = gr.State(0), gr.State(0)
        gr.Markdown("# Edit synonyms, see what changes")
        with gr.Row():
            with gr.Column(min_width=320):
                files = gr.File(
                    label="Images", file_count="multiple", file_types=["image"], type="filepath", height=170
                )
                # By position: two classes may have one name.
                names = [(each, position) for position, each in enumerate(start.class_names)]
                position = gr.Dropdown(names, value=0, label="Class", elem_id="class")
                with gr.Group(visible=False) as unsaved:
                    question = gr.Markdown(elem_id="question")
                    keep = gr.Button("Apply them, then go on", elem_id="keep")
                    lose = gr.Button("Throw them away", variant="stop", elem_id="lose")
                    stay = gr.Button("Stay here", elem_id="stay")
                words = gr.Textbox(words_of(start, 0), label="Synonyms, one a line", lines=8, elem_id="words")
                apply = gr.Button("Apply", variant="primary", elem_id="apply")
                warned = gr.Markdown(visible=False, elem_id="warnings")
                download = gr.DownloadButton("Save the synonym file", elem_id="save")
                with gr.Accordion("Push the space to the Hub", open=False):
                    repository = gr.Textbox(label="Repository, user/name")
                    token = gr.Textbox(label="Token", type="password")
                    pushed = gr.Button("Push")
                    address = gr.Markdown()
            with gr.Column(min_width=320):
                answers = gr.HTML(answers_html(Photos(), ()), elem_id="answers")
                drawn = gr.HTML()
        # The file is written with every change, so that the first click on "Save" has it.
        shown: Update = {
            "fn": said(show),
            "inputs": [synonyms, shown_class, photos, before],
            "outputs": [answers, drawn, before, warned, download],
        }
        chosen: Update = {
            "fn": choose,
            "inputs": [synonyms, wanted_class, shown_class, words],
            "outputs": [position, words, unsaved, question, shown_class],
        }
        editing: Update = {
            "fn": said(edited),
            "inputs": [synonyms, shown_class, words],
            "outputs": synonyms,
        }
        app.load(**shown)
        files.change(said(lambda own: editor.encode(own or [])), files, photos).success(
            lambda: {}, None, before
        ).then(**shown)
        position.input(lambda wanted: wanted, position, wanted_class).then(**chosen).then(**shown)
        keep.click(**editing).success(**chosen).then(**shown)
        lose.click(words_of, [synonyms, shown_class], words).then(**chosen).then(**shown)
        stay.click(lambda: gr.Group(visible=False), None, unsaved)
        apply.click(**editing).success(lambda: gr.Group(visible=False), None, unsaved).then(**shown)
        pushed.click(
            said(lambda *given: f"Pushed to {editor.push(*given)}"), [synonyms, repository, token], address
        )
    app.queue(max_size=32, default_concurrency_limit=1)
    return app  # type: ignore[no-any-return]  # gradio has no types for mypy


def launch(app: gr.Blocks, *, port: int | None = None, open_browser: bool = False) -> None:
    """Serve the app until it is stopped."""
    app.launch(
        server_port=port,
        inbrowser=open_browser,
        theme=THEME,
        css=CSS,
        max_file_size="10mb",
        footer_links=[],
        ssr_mode=False,
    )
