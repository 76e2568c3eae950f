#![allow(clippy::unwrap_used)]

use super::*;

const EDGE: Mask = 1 << 31;
const ONE_SHOT: Mask = 1 << 30;

fn event(files: &mut Files) -> (i32, FileId) {
    let fd = files.open(Kind::Event(Event::default()), libc::O_RDWR, true).unwrap();
    (fd, files.id(fd).unwrap())
}

fn epoll(files: &mut Files) -> FileId {
    let fd = files.open(Kind::Epoll(Epoll::default()), libc::O_RDWR, false).unwrap();
    files.id(fd).unwrap()
}

#[test]
fn descriptors_are_the_lowest_free_and_files_live_until_the_last() {
    let mut files = Files::new();
    let (first, id) = event(&mut files);
    let (second, _) = event(&mut files);
    assert_eq!((first, second), (0, 1));
    let copy = files.duplicate(first, 5).unwrap();
    assert_eq!(copy, 5);
    files.close(first).unwrap();
    assert_eq!(files.id(copy), Ok(id));
    files.event_write(id, 3).unwrap();
    assert_eq!(files.event_read(id), Ok(3));
    assert_eq!(files.duplicate_to(second, copy), Ok(copy));
    assert_eq!(files.event_read(id), Err(Errno::BAD_DESCRIPTOR));
    assert_eq!(event(&mut files).0, 0);
    assert_eq!(files.close(77), Err(Errno::BAD_DESCRIPTOR));
    assert_eq!(files.close(-1), Err(Errno::BAD_DESCRIPTOR));
}

#[test]
fn edges_are_told_once_and_again_after_each_write() {
    let mut files = Files::new();
    let (fd, id) = event(&mut files);
    let poll = epoll(&mut files);
    files.epoll_control(poll, fd, Control::Add { events: IN | EDGE, data: 9 }).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![]));
    files.event_write(id, 1).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![Ready { events: IN, data: 9 }]));
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![]));
    files.event_write(id, 1).unwrap();
    assert_eq!(files.epoll_take(poll, 8).unwrap().len(), 1);
}

#[test]
fn levels_are_told_as_long_as_they_last() {
    let mut files = Files::new();
    let (fd, id) = event(&mut files);
    let poll = epoll(&mut files);
    files.event_write(id, 1).unwrap();
    files.epoll_control(poll, fd, Control::Add { events: IN, data: 1 }).unwrap();
    for _ in 0..3 {
        assert_eq!(files.epoll_take(poll, 8).unwrap().len(), 1);
    }
    files.event_read(id).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![]));
}

#[test]
fn one_shot_interests_wait_for_modify() {
    let mut files = Files::new();
    let (fd, id) = event(&mut files);
    let poll = epoll(&mut files);
    files.epoll_control(poll, fd, Control::Add { events: IN | ONE_SHOT, data: 1 }).unwrap();
    files.event_write(id, 1).unwrap();
    assert_eq!(files.epoll_take(poll, 8).unwrap().len(), 1);
    files.event_write(id, 1).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![]));
    files.epoll_control(poll, fd, Control::Modify { events: IN | ONE_SHOT, data: 2 }).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![Ready { events: IN, data: 2 }]));
}

#[test]
fn a_closed_file_is_watched_no_more() {
    let mut files = Files::new();
    let (fd, id) = event(&mut files);
    let poll = epoll(&mut files);
    files.epoll_control(poll, fd, Control::Add { events: IN, data: 1 }).unwrap();
    files.event_write(id, 1).unwrap();
    files.close(fd).unwrap();
    assert_eq!(files.epoll_take(poll, 8), Ok(vec![]));
    let (again, _) = event(&mut files);
    assert_eq!(again, fd);
    files.epoll_control(poll, fd, Control::Add { events: IN, data: 1 }).unwrap();
    assert_eq!(
        files.epoll_control(poll, fd, Control::Add { events: IN, data: 1 }),
        Err(Errno::EXISTS)
    );
    files.epoll_control(poll, fd, Control::Delete).unwrap();
    assert_eq!(files.epoll_control(poll, fd, Control::Delete), Err(Errno::NOT_FOUND));
}

#[test]
fn news_beyond_the_limit_stay_for_the_next_call() {
    let mut files = Files::new();
    let poll = epoll(&mut files);
    for data in 0..3 {
        let (fd, id) = event(&mut files);
        files.epoll_control(poll, fd, Control::Add { events: IN | EDGE, data }).unwrap();
        files.event_write(id, 1).unwrap();
    }
    assert_eq!(files.epoll_take(poll, 2).unwrap().len(), 2);
    assert_eq!(files.epoll_take(poll, 2).unwrap().len(), 1);
}

#[test]
fn streams_carry_bytes_and_tell_their_end() {
    let mut files = Files::new();
    let [a, b] = files.open_pair([libc::O_RDWR; 2], true).unwrap();
    let (id_a, id_b) = (files.id(a).unwrap(), files.id(b).unwrap());
    let mut buffer = [0; 8];
    assert_eq!(files.stream_read(id_b, &mut buffer), Err(Errno::AGAIN));
    assert_eq!(files.stream_write(id_a, b"hello"), Ok(5));
    assert_eq!(files.stream_read(id_b, &mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"hello");
    assert_eq!(files.stream_write(id_a, &vec![0; 100_000]), Ok(stream::CAPACITY));
    assert_eq!(files.stream_write(id_a, b"x"), Err(Errno::AGAIN));
    assert_eq!(files.readiness(id_a) & OUT, 0);
    files.stream_finish(id_a).unwrap();
    let mut all = vec![0; 100_000];
    assert_eq!(files.stream_read(id_b, &mut all), Ok(stream::CAPACITY));
    assert_eq!(files.stream_read(id_b, &mut buffer), Ok(0));
    files.close(b).unwrap();
    assert_eq!(files.stream_write(id_a, b"x"), Err(Errno::BROKEN_PIPE));
    assert_ne!(files.readiness(id_a) & HANGUP, 0);
}
