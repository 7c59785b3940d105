"""Shapley values: what each feature adds to a score, so that the parts add up to the whole.

The game: a coalition of features has its values from the event, all other features are at their usual value; its worth
is the score of that row. The Shapley value of a feature is what it adds on average over all orders in which features
can join (Shapley 1953, "A value for n-person games"; Štrumbelj & Kononenko 2014, "Explaining prediction models and
individual predictions with feature contributions"). A scorer is only asked for scores, so that any detector will do.

Few features: all coalitions are scored, and the values are exact. More: orders are drawn, each with its reverse
(antithetic sampling: Mitchell, Cooper, Frank, Holmes 2022, "Sampling permutations for Shapley value estimation",
section 4.1), after Castro, Gómez, Tejada 2009, "Polynomial calculation of the Shapley value based on sampling". In each
order what the features add telescopes to score(event) - score(usual), so that estimates add up to it, too.
Still more: the features that seem to matter least join together, as one player (Owen 1977, "Values of games with a
priori unions": the game between the unions), and share what it adds.
"""

from math import lgamma
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool

ROWS_MAX = 2000
"""Rows that are scored for one explanation."""
ORDERS_MIN = 16
"""Orders at least: with more features than leave room for so many, some join together."""


class Trials(NamedTuple):
    """The rows to score for one event, and how their scores become parts.

    `members` (r x m) tells which players have their value from the event; row 0 is the usual row, the last row is the
    event. `ranks` (orders x m) is the place of each player in each order; None when all coalitions are there, row by
    row in binary counting. `players` (d) is the player of each feature, -1 for a feature that changes nothing, and
    `shares` (d) the feature's share of what its player adds.
    """

    members: Bool
    ranks: I64 | None
    players: I64
    shares: F64

    def rows(self, event: F64, usual: F64) -> F64:
        """Return the rows to score (r x d) for an event (d) and its usual row (d)."""
        # The last column is that of no player, for features which are the same in both.
        from_event = np.column_stack([self.members, np.zeros(len(self.members), dtype=np.bool)])
        rows: F64 = np.where(from_event[:, self.players], event, usual)
        return rows

    def parts(self, scores: F64) -> F64:
        """Return what each feature adds (k x d) to each of k finite scores (k x r) of the rows.

        The parts of score i add up to scores[i, -1] - scores[i, 0].
        """
        n_players = self.members.shape[1]
        added = np.zeros((len(scores), n_players + 1))
        if self.ranks is None:
            added[:, :-1] = _exact(scores, n_players)
        else:
            added[:, :-1] = [_sampled(each, self.ranks) for each in scores]
        parts: F64 = added[:, self.players] * self.shares
        return parts


def trials(distances: F64, seed: int, rows_max: int = ROWS_MAX) -> Trials:
    """Choose the rows for an event whose features (d) are so far from their usual value; 0 = not at all, so no part.

    The distances decide who joins whom when there are too many features, in no other way. At most `rows_max` rows (34
    at least); the same seed gives the same rows.
    """
    changed = np.flatnonzero(distances > 0.0)
    players_max = (rows_max - 2) // ORDERS_MIN + 1
    # Farthest first, ties in column order; whoever is behind the last place joins the last player.
    ranked = changed[np.argsort(-distances[changed], kind="stable")]
    n_players = min(len(ranked), players_max)
    players = np.full(len(distances), -1)
    players[ranked] = np.minimum(np.arange(len(ranked)), max(n_players - 1, 0))
    shares = np.ones(len(distances))
    together = ranked[players_max - 1 :]
    if len(together):
        weights = np.minimum(distances[together], np.finfo(np.float64).max / len(distances))
        shares[together] = weights / weights.sum()
    if 2**n_players <= rows_max:
        codes = np.arange(2**n_players)[:, np.newaxis]
        return Trials((codes >> np.arange(n_players) & 1).astype(np.bool), None, players, shares)
    ranks = _orders(n_players, (rows_max - 2) // (n_players - 1), seed)
    return Trials(_prefixes(ranks), ranks, players, shares)


def _orders(n_players: int, count: int, seed: int) -> I64:
    """Draw the places of the players in an even number of orders (at most `count`): orders, then their reverses."""
    generator = np.random.default_rng(seed)
    ranks = generator.permuted(np.tile(np.arange(n_players), (count // 2, 1)), axis=1)
    return np.concatenate([ranks, n_players - 1 - ranks])


def _prefixes(ranks: I64) -> Bool:
    """Return the coalitions that come up in the orders: nobody; all proper prefixes, order by order; everybody."""
    n_players = ranks.shape[1]
    sizes = np.arange(1, n_players)[np.newaxis, :, np.newaxis]
    inner = (ranks[:, np.newaxis, :] < sizes).reshape(-1, n_players)
    ends = np.zeros((1, n_players), dtype=np.bool)
    return np.concatenate([ends, inner, ~ends])


def _sampled(scores: F64, ranks: I64) -> F64:
    """Return the mean over the orders of what each player adds when it joins."""
    n_orders, n_players = ranks.shape
    along = np.empty((n_orders, n_players + 1))
    along[:, 0], along[:, -1] = scores[0], scores[-1]
    along[:, 1:-1] = scores[1:-1].reshape(n_orders, n_players - 1)
    added: F64 = np.take_along_axis(np.diff(along, axis=1), ranks, axis=1).mean(axis=0)
    return added


def _exact(scores: F64, n_players: int) -> F64:
    """Return the mean over all orders (k x m): |S|! (m - |S| - 1)! / m! for each coalition S that a player joins."""
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(n_players - 1):
        sizes = np.concatenate([sizes, sizes + 1])
    # The coalitions without a player are in the same order of sizes, whoever the player is.
    weights = np.array([_weight(size, n_players) for size in range(n_players)])[sizes] if n_players else np.zeros(0)
    added = np.empty((len(scores), n_players))
    for player in range(n_players):
        pairs = scores.reshape(len(scores), -1, 2, 1 << player)
        joined = (pairs[:, :, 1] - pairs[:, :, 0]).reshape(len(scores), -1)
        added[:, player] = (weights * joined).sum(axis=1)
    return added


def _weight(size: int, n_players: int) -> float:
    return float(np.exp(lgamma(size + 1) + lgamma(n_players - size) - lgamma(n_players + 1)))
