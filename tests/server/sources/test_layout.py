import pytest

from lorax_serve.server.sources.layout import adapter_folder


@pytest.mark.parametrize(
    ("there", "folder"),
    [
        (["", "model_weights/", "model/model_weights/"], ""),
        (["model_weights/", "model/model_weights/"], "model_weights/"),
        (["model/model_weights/"], "model/model_weights/"),
        (["model/", "weights/", "a/model_weights/"], ""),
    ],
)
def test_the_outermost_folder_with_a_config(there: list[str], folder: str) -> None:
    assert adapter_folder(there.__contains__) == folder


def test_nothing_is_asked_in_vain() -> None:
    asked: list[str] = []

    def has_config(folder: str) -> bool:
        asked.append(folder)
        return folder == "model_weights/"

    assert adapter_folder(has_config) == "model_weights/"
    assert asked == ["", "model_weights/"]
