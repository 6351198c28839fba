// peak/fma_f16: y[lane] = Σ_c x_c after `rounds` rounds of x_c ← x_c · m + b, each of STEPS dependent multiply-adds
//
// The ceiling of f16 arithmetic on vec4: CHAINS independent chains in registers. m and b come from memory and y depends
// on every step, so that the compiler can neither precompute nor skip a step.
enable f16;

const CHAINS: u32 = 8u;
const STEPS: u32 = 16u;
const FUSED: u32 = 1u;

struct Extents {
    rounds: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> factors: array<f32>;   // [m, b]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // one for each invocation

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4(f16(factors[0]));
    let b = vec4(f16(factors[1]));
    var x: array<vec4<f16>, CHAINS>;
    for (var c = 0u; c < CHAINS; c++) {
        x[c] = vec4(f16((id.x + c) % 64u)) + vec4(0.0h, 1.0h, 2.0h, 3.0h);
    }
    for (var round = 0u; round < extents.rounds; round++) {
        for (var step = 0u; step < STEPS; step++) {
            for (var c = 0u; c < CHAINS; c++) {
                if FUSED == 1u {
                    x[c] = fma(x[c], m, b);
                } else {
                    x[c] = x[c] * m + b;
                }
            }
        }
    }
    var sum = vec4(0.0h);
    for (var c = 0u; c < CHAINS; c++) {
        sum += x[c];
    }
    if id.x < arrayLength(&y) {
        y[id.x] = f32(dot(sum, vec4(1.0h)));
    }
}
