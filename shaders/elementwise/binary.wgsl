// elementwise/binary: y[o, m, i] = f(a[o, m, i], b[o, m, i])
//
// Either operand may be broadcast along any of the three axes; its stride there is 0. Invocations run along the inner
// axis and workgroups along all three, in grid-stride loops.
const FUNCTION: u32 = 0u;

// f32, or vec4s along the inner axis; an operand broadcast along the inner axis stays f32.
alias Y = f32;
alias YBits = u32; // as many words as Y has
alias A = f32;
alias B = f32; // or f16
alias StoredY = f32; // or f16

struct Extents {
    outer: u32,
    middle: u32,
    inner: u32,
    a_outer: u32,
    a_middle: u32,
    a_inner: u32,
    b_outer: u32,
    b_middle: u32,
    b_inner: u32,
    p: f32,
    q: f32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredY>;   // [outer, middle, inner]

// Propagates NaN. f32 comparisons, max and min may lose it, and compilers may assume that it does not occur, so the
// bits are tested.
fn or_nan(result: Y, v: Y) -> Y {
    return select(result, v, (bitcast<YBits>(v) & YBits(0x7fffffffu)) > YBits(0x7f800000u));
}

fn apply(u: Y, v: Y) -> Y {
    switch FUNCTION {
        case 0u: { return extents.p * u + extents.q * v; }
        case 1u: { return extents.p * u * v; }
        case 2u: { return extents.p * u / v; }
        case 3u: { return or_nan(or_nan(max(u, v), u), v); }
        case 4u: { return or_nan(or_nan(min(u, v), u), v); }
        case 5u: { return or_nan(select(Y(), u, v > Y()), v); }
        case 6u: { return or_nan(select(Y(), u, (Y(extents.p) <= v) & (v <= Y(extents.q))), v); }
        case 7u: { return extents.p * u + extents.q * v * v; }
        case 8u: { return select(extents.p * u / v, Y(), v == Y()); }
        default: { var nan = 0x7fc00000u; return Y(bitcast<f32>(nan)); } // a constant may not be NaN
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var m = id.y; m < extents.middle; m += grid.y) {
        for (var i = id.x; i < extents.inner; i += grid.x * 64u) {
            var u: Y;
            var v: Y;
            for (var o = id.z; o < extents.outer; o += grid.z) {
                // Operands broadcast along o are loaded once.
                if extents.a_outer > 0u || o == id.z {
                    u = Y(a[o * extents.a_outer + m * extents.a_middle + i * extents.a_inner]);
                }
                if extents.b_outer > 0u || o == id.z {
                    v = Y(b[o * extents.b_outer + m * extents.b_middle + i * extents.b_inner]);
                }
                y[(o * extents.middle + m) * extents.inner + i] = StoredY(apply(u, v));
            }
        }
    }
}
