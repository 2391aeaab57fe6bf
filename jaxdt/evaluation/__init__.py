"""Playing episodes with a policy that is steered by a target return."""
