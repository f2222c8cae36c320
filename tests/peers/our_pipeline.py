"""A plugin of pytest: `transformers.pipeline` makes ours of the task. It counts how often, or nobody knew."""

from transformers import pipelines

from s3clip import S3ZeroShotImageClassificationPipeline

made = 0


class Counted(S3ZeroShotImageClassificationPipeline):
    """Ours, counted."""

    def __init__(self, *args, **kwargs):
        global made
        made += 1
        super().__init__(*args, **kwargs)


def pytest_configure(config):
    pipelines.SUPPORTED_TASKS["zero-shot-image-classification"]["impl"] = Counted


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"made by s3clip: {made} pipelines")
