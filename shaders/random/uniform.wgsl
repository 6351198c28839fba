// random/uniform: y_k[4·i + l] = (philox4x32(counter = [i, step_k, stream, 0], key = seed_k)[l] >> 8) · 2⁻²⁴
// for each of K keys k; the rows of y are interleaved: y_0, …, y_{K−1} in turn
//
// Philox4x32-10 (Salmon et al., SC'11). An invocation draws the four numbers of one counter and key; the next
// invocation has the same counter and the next key.
struct Parameters {
    stream: u32,
    keys: u32, // K
    row: u32, // elements in a row
}
var<immediate> parameters: Parameters;

@group(0) @binding(0) var<storage, read> key: array<f32>; // [K, 6]: 16-bit halves of seed (4) and step (2), lowest first
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [rows, K, row]

// Upper word of a 32 × 32-bit product, computed from 16-bit halves.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let cross_a = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let cross_b = (a & 0xffffu) * (b >> 16u) + (cross_a & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (cross_a >> 16u) + (cross_b >> 16u);
}

fn philox4x32(start: vec4<u32>, seed: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var round_key = seed;
    for (var i = 0u; i < 10u; i += 1u) {
        counter = vec4<u32>(
            multiply_high(0xCD9E8D57u, counter.z) ^ counter.y ^ round_key.x,
            0xCD9E8D57u * counter.z,
            multiply_high(0xD2511F53u, counter.x) ^ counter.w ^ round_key.y,
            0xD2511F53u * counter.x,
        );
        round_key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

fn word(k: u32, index: u32) -> u32 {
    return u32(key[6u * k + 2u * index]) | (u32(key[6u * k + 2u * index + 1u]) << 16u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let invocation = (workgroup.y * grid.x + workgroup.x) * 64u + lane;
    let i = invocation / parameters.keys;
    let k = invocation % parameters.keys;
    let draws = philox4x32(vec4<u32>(i, word(k, 2u), parameters.stream, 0u), vec2<u32>(word(k, 0u), word(k, 1u)));
    for (var l = 0u; l < 4u; l += 1u) {
        let element = 4u * i + l;
        let at = (element / parameters.row * parameters.keys + k) * parameters.row + element % parameters.row;
        if at < arrayLength(&y) {
            // Multiplying by a power of two is exact; WGSL allows a quotient 2.5 ULP.
            y[at] = f32(draws[l] >> 8u) * 0x1p-24;
        }
    }
}
