"""The rate of anomalies: a burst of mildly unusual events alarms though none of them alone would."""
