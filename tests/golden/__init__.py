"""What has been published, kept as files: a difference is a decision."""
