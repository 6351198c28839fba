// elementwise/unary: y[i] = f(scale · x[i] + offset)
//
// Invocations run along the elements in a grid-stride loop. The pipeline constant FUNCTION selects f; low and high are
// the limits of a clamp.
const FUNCTION: u32 = 0u;

// f32, or vec4s along the elements.
alias X = f32;
alias XBits = u32; // as many words as X has
alias StoredY = f32; // or f16

struct Parameters {
    scale: f32,
    offset: f32,
    low: f32,
    high: f32,
}
var<immediate> parameters: Parameters;

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read_write> y: array<StoredY>;

const TAU: f32 = 6.2831853;

// sin on the whole line: reduced to [−π/2, π/2], then the Taylor polynomial to x¹¹, whose remainder is below 6e-8. WGSL
// specifies its own sin only to 2⁻¹¹ and only within [−π, π].
fn sine(angle: X) -> X {
    let turn = angle - TAU * round(angle / TAU);
    let folded = select(turn, sign(turn) * 0.5 * TAU - turn, abs(turn) > X(0.25 * TAU));
    let s = folded * folded;
    let series = 1.0 + s * (-1.0 / 6.0 + s * (1.0 / 120.0 + s * (-1.0 / 5040.0 + s * (1.0 / 362880.0 - s / 39916800.0))));
    return folded * series;
}

// Both branches keep exp's argument negative, so that it cannot overflow.
fn sigmoid(v: X) -> X {
    let e = exp(-abs(v));
    return select(e, X(1.0), v >= X()) / (1.0 + e);
}

// Propagates NaN. f32 comparisons, max and min may lose it, and compilers may assume that it does not occur, so the
// bits are tested.
fn positive_part(v: X) -> X {
    // All values with the sign bit, except NaN.
    return select(v, X(), (bitcast<XBits>(v) ^ XBits(0x80000000u)) <= XBits(0x7f800000u));
}

fn limited(v: X) -> X {
    let is_nan = (bitcast<XBits>(v) & XBits(0x7fffffffu)) > XBits(0x7f800000u);
    return select(clamp(v, X(parameters.low), X(parameters.high)), v, is_nan);
}

fn apply(v: X) -> X {
    switch FUNCTION {
        case 0u: { return v; }
        case 1u: { return exp(v); }
        case 2u: { return log(v); }
        case 3u: { return sqrt(v); }
        case 4u: { return 1.0 / v; }
        case 5u: { return sine(v); }
        case 6u: { return sine(v + 0.25 * TAU); }
        case 7u: { return sigmoid(v); }
        case 8u: { return positive_part(v) + log(1.0 + exp(-abs(v))); }
        case 9u: { return positive_part(v); }
        case 10u: { return limited(v); }
        default: { var nan = 0x7fc00000u; return X(bitcast<f32>(nan)); } // a constant may not be NaN
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var i = id.x; i < arrayLength(&y); i += grid.x * 64u) {
        y[i] = StoredY(apply(parameters.scale * x[i] + parameters.offset));
    }
}
