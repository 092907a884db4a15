"""The bodies of requests and answers, one noun a module."""
