// peak/empty: y[i] = x[i] by one workgroup, to measure the cost of an empty dispatch
@group(0) @binding(0) var<storage, read> x: array<f32>;         // [64]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [64]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    if lane < arrayLength(&y) {
        y[lane] = x[lane];
    }
}
