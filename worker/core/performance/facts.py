"""What `label_facts` of a lifetime record count, in words. Names are never changed, only added to."""

MEANINGS = {
    "unlabelled_in_time": "Predictions that had no label within `label_wait_max_ms`.",
    "unlabelled_no_room": "Predictions that gave way, without a label, to newer ones beyond `join_events_max`.",
    "label_without_prediction": "Labels for which no prediction came within `label_wait_max_ms`.",
    "label_no_room": "Labels that waited for a prediction and gave way to newer ones beyond `early_labels_max`.",
    "duplicate_predictions": "Predictions with the id of one that is kept; joined once, in panes of features twice.",
    "duplicate_labels": "Labels that say what was known already.",
    "outdated_labels": "Labels with an older timestamp than the one that holds.",
    "corrections": "Labels that replaced another one: its contribution was taken back.",
    "unknown_class": "Labels that are none of the classes; they count as `(other)`.",
    "label_kind": "Labels of a kind that the task cannot have (a text for a number, a number for a class); not used.",
    "prediction_kind": "The same of predictions, noticed when their label came; not used.",
    "probabilities": "Probabilities that do not add up to 1 within 2 %, or are of no known class; without a score.",
    "clipped": "Values further than 2^60 units from the usual ones; cut to that.",
}
