"""Vote fractions without the bias of distance: a step of its own, on published labels."""
