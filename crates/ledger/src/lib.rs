//! The rules of money: command -> events -> state, deterministic and pure.
