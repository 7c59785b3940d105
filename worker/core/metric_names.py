"""The names of the performance metrics, as configuration and records use them; the formulas are in `performance`."""

CLASSIFICATION_METRICS = frozenset(
    {
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "precision_micro",
        "recall_micro",
        "f1_micro",
        "matthews",
        "log_loss",
        "brier",
        "expected_calibration_error",
        "roc_auc",
        "average_precision",
    }
)
_OF_BIAS = frozenset({"selection_rate", "calibration_in_the_large", "calibration_slope"})
BINARY_METRICS = CLASSIFICATION_METRICS | {"precision", "recall", "f1"} | _OF_BIAS
REGRESSION_METRICS = frozenset({"mse", "rmse", "mae", "median_absolute_error", "r2", "bias", "mape"})
COVERAGE = "label_coverage"
LAG_METRICS = ("label_lag_median", "label_lag_p95")
ALL_METRICS = BINARY_METRICS | REGRESSION_METRICS | {COVERAGE, *LAG_METRICS}

LESS_IS_BETTER = frozenset(
    {"log_loss", "brier", "expected_calibration_error", "mse", "rmse", "mae", "median_absolute_error", "mape"}
) | set(LAG_METRICS)
MORE_IS_BETTER = ALL_METRICS - LESS_IS_BETTER - _OF_BIAS - {"bias"}
"""Of the bias, the selection rate and the calibration neither is better: they can only have absolute limits."""
