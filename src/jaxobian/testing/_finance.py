"""Scenarios: finance: books of options, paths, curves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._scenario import integers, normal, scenario, uniform


def _call(spot: Array, strike: Array, rate: Array, sigma: Array, time: Array) -> Array:
    """Black and Scholes's price of a call."""
    d1 = (jnp.log(spot / strike) + (rate + sigma**2 / 2) * time) / (sigma * jnp.sqrt(time))
    cdf = jax.scipy.stats.norm.cdf
    return spot * cdf(d1) - strike * jnp.exp(-rate * time) * cdf(d1 - sigma * jnp.sqrt(time))


@scenario("bench")
def option_book(options: int = 60):
    """Prices of 60 calls by spot, rate and volatility, which they share."""
    strikes, times = uniform(options), uniform(options, seed=1)
    return lambda p: _call(p[0], strikes, p[1], p[2], times), (jnp.array([1.0, 0.05, 0.3]),)


@scenario("bench")
def book_value(options: int = 60):
    """The value of 60 calls by their volatilities: one output."""
    strikes, times, held = uniform(options), uniform(options, seed=1), normal(options)
    spot, rate = jnp.float32(1), jnp.float32(0.05)
    return lambda sigma: held @ _call(spot, strikes, rate, sigma, times), (0.3 * uniform(options),)


@scenario("bench", argnums=(0, 1))
def book_by_spot_and_volatility(options: int = 200):
    """Prices of 200 calls, each by its own spot and volatility: a diagonal for each."""
    strikes, times = uniform(options), uniform(options, seed=1)

    def f(spot: Array, sigma: Array) -> Array:
        return _call(spot, strikes, jnp.float32(0.05), sigma, times)

    return f, (uniform(options, seed=2), 0.3 * uniform(options, seed=3))


@scenario("bench")
def monte_carlo(paths: int = 128):
    """The price of an Asian option from 128 paths of 12 steps, by spot, rate, volatility and strike."""
    noise = normal(12, paths)

    def f(p: Array) -> Array:
        spot, rate, sigma, strike = p

        def step(log: Array, z: Array) -> tuple[Array, Array]:
            log = log + (rate - sigma**2 / 2) / 12 + sigma * jnp.sqrt(1 / 12) * z
            return log, jnp.exp(log)

        prices = lax.scan(step, jnp.broadcast_to(jnp.log(spot), paths), noise)[1]
        return jnp.exp(-rate) * jnp.mean(jax.nn.relu(prices.mean(0) - strike))

    return f, (jnp.array([1.0, 0.03, 0.25, 0.95]),)


@scenario("bench")
def curve_bootstrap(years: int = 20):
    """Discount factors of 20 years from par rates, one after the other: lower triangular."""

    def f(rates: Array) -> Array:
        def year(annuity: Array, rate: Array) -> tuple[Array, Array]:
            factor = (1 - rate * annuity) / (1 + rate)
            return annuity + factor, factor

        return lax.scan(year, jnp.zeros(()), rates)[1]

    return f, (0.05 * uniform(years),)


@scenario("bench")
def implied_volatility(prices: int = 100):
    """Volatilities that 100 prices imply, by five Newton iterations."""
    strikes, one = uniform(prices, low=0.9, high=1.1), jnp.float32(1)

    def price(sigma: Array, strike: Array) -> Array:
        return _call(one, strike, jnp.float32(0.02), sigma, one)

    def implied(target: Array, strike: Array) -> Array:
        def newton(sigma: Array, _: Any) -> tuple[Array, None]:
            value, slope = jax.value_and_grad(price)(sigma, strike)
            return sigma - (value - target) / slope, None

        return lax.scan(newton, jnp.float32(0.3), None, length=5)[0]

    targets = jax.vmap(price)(0.3 * uniform(prices, seed=1), strikes)
    return lambda p: jax.vmap(implied)(p, strikes), (targets,)


@scenario("bench")
def portfolio_risk(assets: int = 15):
    """Volatility of a portfolio of 15 assets, and each asset's part in it, by the weights."""
    factors = normal(assets, 4)
    covariance = factors @ factors.T + jnp.eye(assets)

    def f(w: Array) -> tuple[Array, Array]:
        risk = jnp.sqrt(w @ covariance @ w)
        return risk, w * (covariance @ w) / risk

    return f, (uniform(assets),)


@scenario("bench")
def swap_book(swaps: int = 100):
    """Values of 100 swaps of one to 30 years by the 30 rates of a curve that discounts them."""
    years, fixed = 1 + integers(30, swaps), 0.05 * uniform(swaps)
    paid = jnp.arange(1, 31) <= years[:, None]

    def f(rates: Array) -> Array:
        factors = jnp.exp(-rates * jnp.arange(1, 31))
        return 1 - factors[years - 1] - fixed * jnp.sum(jnp.where(paid, factors, 0), axis=1)

    return f, (0.05 * uniform(30, seed=1),)
