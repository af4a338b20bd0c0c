"""From text to token ids that user text cannot escape: chat templates, and what reward models and guards are asked."""
