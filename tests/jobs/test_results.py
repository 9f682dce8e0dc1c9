from tunery.jobs.endings import step_metrics_csv


def test_result_file_has_openais_header_five_decimals_and_blanks() -> None:
    rows = [
        {"step": 1, "train_loss": 1.23456789, "train_mean_token_accuracy": 0.5},
        {"step": 2, "train_loss": 1, "train_mean_token_accuracy": 1, "valid_loss": 2, "valid_mean_token_accuracy": 0},
    ]
    assert step_metrics_csv(rows).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,1.23457,0.50000,,\n"
        "2,1.00000,1.00000,2.00000,0.00000\n"
    )


def test_step_trained_twice_stands_once_in_order_of_steps() -> None:
    rows = [
        {"step": 2, "train_loss": 0.1},
        {"step": 1, "train_loss": 0.2},
        {"step": 2, "train_loss": 0.3},
    ]
    assert [line.split(",")[:2] for line in step_metrics_csv(rows).decode().split()[1:]] == [
        ["1", "0.20000"],
        ["2", "0.30000"],
    ]
