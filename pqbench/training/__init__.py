"""The training loop, batches and resumable state that learners share. Nothing here knows quantization."""
