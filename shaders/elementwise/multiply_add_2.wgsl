// elementwise/multiply_add_2: y[o, m, i] = p · a[o, m, i] · b[o, m, i] + q · c[o, m, i] · d[o, m, i] + r · e[o, m, i], or its
//     positive part
//
// Any operand may be broadcast along any of the three axes; its stride there is 0. Invocations run along the inner axis
// and workgroups along all three, in grid-stride loops.
const RELU: u32 = 0u; // 1: the positive part

// f32, or vec4s along the inner axis; an operand broadcast along the inner axis stays f32.
alias Y = f32;
alias YBits = u32; // as many words as Y has
alias A = f32;
alias B = f32;
alias C = f32;
alias D = f32;
alias E = f32;
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
    c_outer: u32,
    c_middle: u32,
    c_inner: u32,
    d_outer: u32,
    d_middle: u32,
    d_inner: u32,
    e_outer: u32,
    e_middle: u32,
    e_inner: u32,
    p: f32,
    q: f32,
    r: f32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<A>;
@group(0) @binding(1) var<storage, read> b: array<B>;
@group(0) @binding(2) var<storage, read> c: array<C>;
@group(0) @binding(3) var<storage, read> d: array<D>;
@group(0) @binding(4) var<storage, read> e: array<E>;
@group(0) @binding(5) var<storage, read_write> y: array<StoredY>;   // [outer, middle, inner]

// Propagates NaN. f32 comparisons and max may lose it, and compilers may assume that it does not occur, so the bits are
// tested: every value with the sign bit, except NaN, becomes 0.
fn positive_part(v: Y) -> Y {
    return select(v, Y(), (bitcast<YBits>(v) ^ YBits(0x80000000u)) <= YBits(0x7f800000u));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    for (var m = id.y; m < extents.middle; m += grid.y) {
        for (var i = id.x; i < extents.inner; i += grid.x * 64u) {
            var s: Y;
            var t: Y;
            var u: Y;
            var v: Y;
            var w: Y;
            for (var o = id.z; o < extents.outer; o += grid.z) {
                // Operands broadcast along o are loaded once.
                if extents.a_outer > 0u || o == id.z {
                    s = Y(a[o * extents.a_outer + m * extents.a_middle + i * extents.a_inner]);
                }
                if extents.b_outer > 0u || o == id.z {
                    t = Y(b[o * extents.b_outer + m * extents.b_middle + i * extents.b_inner]);
                }
                if extents.c_outer > 0u || o == id.z {
                    u = Y(c[o * extents.c_outer + m * extents.c_middle + i * extents.c_inner]);
                }
                if extents.d_outer > 0u || o == id.z {
                    v = Y(d[o * extents.d_outer + m * extents.d_middle + i * extents.d_inner]);
                }
                if extents.e_outer > 0u || o == id.z {
                    w = Y(e[o * extents.e_outer + m * extents.e_middle + i * extents.e_inner]);
                }
                let sum = extents.p * s * t + extents.q * u * v + extents.r * w;
                y[(o * extents.middle + m) * extents.inner + i] = StoredY(select(sum, positive_part(sum), RELU == 1u));
            }
        }
    }
}
