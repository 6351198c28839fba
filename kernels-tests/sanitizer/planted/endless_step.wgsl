// A loop without a step.
// dispatch: 1 | 64 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = id.x;
    var sum = 0.0;
    for (var k = 0u; k < 64u; k += lane) { // reports: endless // sound: for (var k = 0u; k < 64u; k += 1u) {
        sum += x[k];
    }
    y[i] = sum;
}
