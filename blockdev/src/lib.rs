//! Block devices and the transactional store on them.
