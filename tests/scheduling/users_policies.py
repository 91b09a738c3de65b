"""Policies that a user could have written."""

CALLS = []


def last(view, request):
    """Send everything to the last instance."""
    CALLS.append(request.request_id)
    return view.size - 1


def too_far(view, request):
    """Name an instance that is not there."""
    return view.size


def no_number(view, request):
    """Name something that is no instance."""
    return "first"


def fails(view, request):
    """Fail."""
    return view.nothing


def alone(view):
    """Take too little."""
    return 0


class Alternates:
    """Remember whom it named last."""

    def __init__(self):
        self.count = 0

    def __call__(self, view, request):
        self.count += 1
        return self.count % 2
