// patch/sigmoid: σ(x) = 1 / (1 + exp(−x))

// Both branches keep exp's argument negative, so that it cannot overflow.
fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
