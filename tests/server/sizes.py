"""What the tests know of the tiny bundle, without loading its libraries."""

CONTEXT, SHARED_DIM, SOFT_TOKENS = 4096, 8, 2
PICTURES = 9
