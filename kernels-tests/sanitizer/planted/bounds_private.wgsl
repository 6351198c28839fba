// One step too many over an array of the function.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    var powers: array<f32, 4>;
    var power = 1.0;
    for (var k = 0u; k <= 4u; k += 1u) { // sound: for (var k = 0u; k < 4u; k += 1u) {
        powers[k] = power; // reports: out-of-bounds
        power *= x[i];
    }
    y[i] = powers[0] + powers[1] + powers[2] + powers[3];
}
