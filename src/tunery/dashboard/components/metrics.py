"""What training measures, by OpenAI's names, in the reader's words."""

from tunery.texts import Translator

LOSSES = ("train_loss", "valid_loss", "full_valid_loss")
ACCURACIES = ("train_mean_token_accuracy", "valid_mean_token_accuracy", "full_valid_mean_token_accuracy")
METRICS = (*LOSSES, *ACCURACIES)


def metric_label(name: str, t: Translator) -> str:
    """Where losses and accuracies stand together."""
    return f"{t('job.loss' if name in LOSSES else 'job.accuracy')}: {t(f'metric.{name}')}"
