"""Floating-point operations of a method's matrix products, counted from its shapes; a multiply-add is two.

Attention is counted over all pairs of tokens, as it is computed. The last block is counted for the tokens that
predict only: its keys and values come from all tokens, the rest from the K state tokens, or the newest alone. So
the floor is what our step needs; Hugging Face's model, which computes that block for every token, needs more.

A multilayer perceptron's training needs its forward products three times, but for those that would give its inputs'
gradient.
"""

from benchmarking.shapes import Shapes, ValueMethod


def forward_operations(shapes: Shapes, batch_size: int, *, newest_only: bool = False) -> int:
    """Of predicting the actions of `batch_size` windows, or each window's newest."""
    return batch_size * (_embedding(shapes) + _blocks_and_head(shapes, 1 if newest_only else shapes.context_length))


def update_operations(shapes: Shapes) -> int:
    """Of one update: a product in the forward pass needs two more of its size in the backward pass.

    The embeddings need one more only, since nothing asks for the gradient of states, actions and returns.
    """
    return shapes.batch_size * (2 * _embedding(shapes) + 3 * _blocks_and_head(shapes, shapes.context_length))


def _embedding(shapes: Shapes) -> int:
    return 2 * shapes.context_length * (1 + shapes.state_dim + shapes.action_dim) * shapes.width


def _blocks_and_head(shapes: Shapes, answers: int) -> int:
    tokens = 3 * shapes.context_length
    blocks = (shapes.num_layers - 1) * _block(tokens, tokens, shapes.width) + _block(tokens, answers, shapes.width)
    return blocks + 2 * answers * shapes.width * shapes.action_dim


def _block(tokens: int, answers: int, width: int) -> int:
    """Keys and values of all tokens; query, attention, its projection and the MLP of those that answer."""
    keys_and_values = 2 * tokens * width * 2 * width
    query_and_projection = 2 * answers * width * 2 * width
    attention = 2 * answers * tokens * 2 * width
    mlp = 2 * answers * width * 8 * width
    return keys_and_values + query_and_projection + attention + mlp


def value_update_operations(shapes: Shapes, method: ValueMethod) -> int:
    """Of one update of implicit Q-learning, or the mean of a pair of TD3+BC's, whose second trains the policy too."""
    state, action = shapes.state_dim, shapes.action_dim
    policy, policy_trained = _mlp(shapes, state, action)
    value, value_trained = _mlp(shapes, state, 1)
    critic, critic_trained = _mlp(shapes, state + action, 1)
    if method == "iql":
        # Of the slow critics; of V on the states before its step and after it, and on the next ones; the policy's.
        operations = 2 * critic + value_trained + 2 * value + policy_trained + 2 * critic_trained
    else:
        always = policy + 2 * critic + 2 * critic_trained
        # The policy climbs the first critic: forward, and back to the action without gradients of weights.
        climbs = critic + critic - 2 * state * shapes.width
        operations = always + (policy_trained + climbs) // 2
    return shapes.batch_size * operations


def _mlp(shapes: Shapes, inputs: int, outputs: int) -> tuple[int, int]:
    """Of one row forward, and in training."""
    width = shapes.width
    first = 2 * inputs * width
    forward = first + 2 * (shapes.num_layers - 1) * width * width + 2 * width * outputs
    return forward, 3 * forward - first
