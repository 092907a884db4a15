"""Chat completions as OpenAI's clients know them: an adapter over the service's replies."""
