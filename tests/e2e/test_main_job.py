"""The main job on real data and a real encoder: it must not forget what it learned."""

from pathlib import Path

import pytest

from conpet import fit, load_stream

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    stream = load_stream("banking77", train_per_class=20, valid_per_class=5, test_per_class=5)
    out = tmp_path_factory.mktemp("runs")
    for method in ("conpet-dynamic", "sequential"):
        fit(stream, out=out / method, method=method, train__epochs=4)
    return {method: out / method for method in ("conpet-dynamic", "sequential")}


def test_conpet_dynamic_beats_sequential_by_twenty_points(runs: dict[str, Path]) -> None:
    from conpet import load

    whole = {method: load(folder).evaluate()["whole"] for method, folder in runs.items()}
    assert whole["conpet-dynamic"] >= whole["sequential"] + 20, whole


def test_evaluation_from_the_folder_is_the_last_row_of_the_matrix(runs: dict[str, Path]) -> None:
    from conpet import load

    model = load(runs["conpet-dynamic"])
    assert model.evaluate()["row"] == model.matrix.values[-1].tolist()


def test_a_new_text_is_answered_without_its_task(runs: dict[str, Path]) -> None:
    from conpet import load

    texts = ["my card was swallowed by the cash machine", "can you tell me the exchange rate"]
    card, rate = load(runs["conpet-dynamic"]).predict(texts)
    assert card.label == "card_swallowed"
    assert rate.label == "exchange_rate"
    assert 0 < rate.score <= 1
    assert len(rate.tasks) == 1
