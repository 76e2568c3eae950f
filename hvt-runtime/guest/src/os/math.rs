//! Functions of `libm`, from the crate of that name. Few programs need any: tokio's statistics take a power,
//! and Brotli logarithms.

#[unsafe(no_mangle)]
extern "C" fn pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

#[unsafe(no_mangle)]
extern "C" fn exp(value: f64) -> f64 {
    libm::exp(value)
}

#[unsafe(no_mangle)]
extern "C" fn log(value: f64) -> f64 {
    libm::log(value)
}

#[unsafe(no_mangle)]
extern "C" fn log2f(value: f32) -> f32 {
    libm::log2f(value)
}
