//! What paths stand for in a site, and how generations follow each other.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use unipi::site::generations::{Outcome, RollbackError, SMALL};
use unipi::site::{
    BuildError, BuildOptions, Coding, CommitInfo, ContentTypes, Entry, EntryKind, Found,
    Generations, Scratch, Site, SitePath, Source, build,
};

const NOW: u64 = 1_700_000_000;

fn options() -> BuildOptions {
    BuildOptions { types: ContentTypes::default(), max_size: 1 << 20, default: None }
}

async fn made(
    files: &[(&str, &str)],
    time: u64,
    before: &[Arc<Site>],
    options: &BuildOptions,
) -> Result<Site, BuildError> {
    let entries = files.iter().map(|(path, text)| {
        let (path, kind) = match path.strip_suffix("@") {
            Some(path) => (path, EntryKind::Link),
            None => (*path, EntryKind::File),
        };
        // As with git: the id follows from the content.
        let id = text.bytes().take(64).fold(7_u64, |sum, b| sum.wrapping_mul(31) ^ u64::from(b));
        let id = id.wrapping_add(text.len() as u64);
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            id: format!("{id:016x}"),
            data: text.to_string().into(),
        }
    });
    let source = Source {
        commit: CommitInfo { id: "c0".to_owned(), time, ..CommitInfo::default() },
        entries: entries.collect(),
        notices: Vec::new(),
    };
    build(source, options, before, NOW).await
}

async fn site(files: &[(&str, &str)]) -> Site {
    made(files, 1_000_000_000, &[], &options()).await.unwrap()
}

fn find(site: &Site, target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let text = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
    match site.find(&SitePath::parse(path.as_bytes()).unwrap(), query) {
        Found::Page { status, page } => format!("{status} {}", text(page.blob.data())),
        Found::Redirect { status, location } => format!("{status} {location}"),
        Found::Missing(Some(page)) => format!("404 {}", text(page.blob.data())),
        Found::Missing(None) => "404".to_owned(),
    }
}

#[tokio::test]
async fn paths_stand_for_files_directories_and_rules() {
    let site = site(&[
        ("index.html", "root"),
        ("404.html", "none"),
        ("about.html", "about"),
        ("docs/index.html", "docs"),
        ("docs/404.html", "no docs"),
        ("docs/deep/a.txt", "a"),
        ("both.html", "file"),
        ("both/index.html", "folder"),
        ("space name.txt", "space"),
        ("latest@", "docs"),
        ("home@", "index.html"),
        ("docs/up@", "../about.html"),
        ("evil@", "../../etc/passwd"),
        (".gitignore", "x"),
        (".github/workflows/a.yml", "x"),
        (".well-known/security.txt", "mail"),
        ("_redirects", "/old /about 301\n/docs/deep/a.txt /forced 302!\n/about /shadowed 301\n/app/* /index.html 200\n/gone /404.html 410\n/void /nowhere 200\n"),
        ("_headers", "/*\n  X: 1\n"),
    ])
    .await;
    for (target, wanted) in [
        ("/", "200 root"),
        ("/index.html", "200 root"),
        ("/about", "200 about"),
        ("/about.html", "200 about"),
        ("/about/?x=1", "301 /about?x=1"),
        ("/docs", "301 /docs/"),
        ("/docs?a=b&c", "301 /docs/?a=b&c"),
        ("/docs/", "200 docs"),
        ("/both", "200 file"),
        ("/both/", "200 folder"),
        ("/space%20name.txt", "200 space"),
        ("/latest/", "200 docs"),
        ("/latest", "301 /latest/"),
        ("/home", "200 root"),
        ("/docs/up", "200 about"),
        ("/latest/deep/a.txt", "200 a"),
        ("/evil", "404 none"),
        ("/.gitignore", "404 none"),
        ("/.github/workflows/a.yml", "404 none"),
        ("/.well-known/security.txt", "200 mail"),
        ("/_redirects", "404 none"),
        ("/_headers", "404 none"),
        ("/docs/deep", "404 no docs"),
        ("/docs/none/at/all", "404 no docs"),
        ("/none/at/all", "404 none"),
        ("/old?q", "301 /about?q"),
        ("/docs/deep/a.txt", "302 /forced"),
        ("/app/any/where", "200 root"),
        ("/gone", "410 none"),
        ("/void", "404 none"),
        ("/../../index.html", "200 root"),
    ] {
        assert_eq!(find(&site, target), wanted, "{target}");
    }
    let problems: Vec<_> = site.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["evil: the link leads out of the site: not served"]);
}

#[tokio::test]
async fn a_default_page_is_where_the_lost_are_sent() {
    let options =
        BuildOptions { default: Some(SitePath::parse(b"/start.html").unwrap()), ..options() };
    let site = made(&[("start.html", "start")], 1, &[], &options).await.unwrap();
    assert_eq!(find(&site, "/none"), "302 /start.html");
    let lost = made(&[("a", "a")], 1, &[], &options).await.unwrap();
    assert_eq!(find(&lost, "/start.html"), "404");
}

#[tokio::test]
async fn a_site_that_is_too_large_is_refused() {
    let options = BuildOptions { max_size: 9, ..options() };
    let small = made(&[("a", "12345"), ("b", "1234"), ("c", "1234")], 1, &[], &options).await;
    assert_eq!(small.unwrap().size(), 9, "the same content counts once");
    let large = made(&[("a", "12345"), ("b", "67890")], 1, &[], &options).await;
    assert_eq!(large.unwrap_err(), BuildError::TooLarge(9));
}

#[tokio::test]
async fn generations_share_blobs_and_never_go_back_in_time() {
    let generations = Generations::new(2);
    let first = site(&[("a.txt", "same"), ("b.txt", "one")]).await;
    generations.publish(first, "start", NOW);
    let kept = |generations: &Generations| -> Vec<Arc<Site>> {
        generations.kept().into_iter().map(|kept| kept.site).collect()
    };
    let before = kept(&generations);
    // An older commit, as after a force-push.
    let second =
        made(&[("a.txt", "same"), ("b.txt", "two")], 5, &before, &options()).await.unwrap();
    assert!(second.last_modified().0 > before[0].last_modified().0);
    let blob = |site: &Site, name: &str| {
        let page = site.pages().find(|(path, _)| *path == name.as_bytes()).unwrap().1;
        Arc::clone(&page.blob)
    };
    assert!(Arc::ptr_eq(&blob(&second, "a.txt"), &blob(&before[0], "a.txt")));
    assert!(!Arc::ptr_eq(&blob(&second, "b.txt"), &blob(&before[0], "b.txt")));
    generations.publish(second, "GitHub", NOW);

    let back = generations.roll_back(1, "operator", NOW + 60).unwrap();
    assert_eq!(back.number, 3);
    assert_eq!(find(&back.site, "/b.txt"), "200 one");
    assert!(back.site.last_modified().0 > kept(&generations)[0].last_modified().0);
    assert_eq!(generations.kept().iter().map(|kept| kept.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(generations.roll_back(1, "operator", NOW).unwrap_err(), RollbackError::Unknown(1));

    generations.pin("operator", NOW);
    for name in ["x", "y", "z"] {
        let held = made(&[("b.txt", name)], 9, &kept(&generations), &options()).await.unwrap();
        generations.publish(held, "poll", NOW);
        assert_eq!(generations.current().unwrap().number, 3, "a pinned site stays");
    }
    generations.unpin("operator", NOW);
    assert_eq!(find(&generations.current().unwrap().site, "/b.txt"), "200 z");
    let outcomes: Vec<_> = generations.log().iter().map(|deploy| deploy.outcome).collect();
    use Outcome::{Held, Live, Pinned, RolledBack, Unpinned};
    let expected = [Live, Unpinned, Held, Held, Held, Pinned, RolledBack, Live, Live];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn earlier_generations_give_way_to_variants_where_that_helps() {
    const MIB: usize = 1 << 20;
    let options = BuildOptions { max_size: 100 << 20, ..options() };
    let publish = async |generations: &Generations, files: &[(&str, &str)], now: u64| {
        let before: Vec<_> = generations.kept().into_iter().map(|kept| kept.site).collect();
        let site = made(files, now, &before, &options).await.unwrap();
        let generation = generations.publish(site, "test", now);
        let mut scratch = Scratch::default();
        for (_, page) in generation.site.pages() {
            page.blob.compress_as(Coding::Brotli, &mut scratch).await;
        }
        generation.number
    };
    let numbers = |generations: &Generations| {
        generations.kept().iter().map(|kept| kept.number).collect::<Vec<_>>()
    };
    // Half of it is saved by compression.
    let mut state = 1_u64;
    let mut noise = |length: usize| {
        let digits = (0..length).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b"0123456789abcdef"[usize::try_from(state >> 60).unwrap()])
        });
        digits.collect::<String>()
    };
    let generations = Generations::new(8);
    let text = noise(4 * MIB);
    publish(&generations, &[("p.txt", &text)], NOW).await;
    publish(&generations, &[("p.txt", &text), ("f.bin", &"b".repeat(20 * MIB))], NOW + 1).await;
    publish(&generations, &[("p.txt", &text), ("f.bin", &"c".repeat(20 * MIB))], NOW + 1).await;
    assert!(generations.has_room_for_variant());
    assert!(generations.make_room_for_variant(NOW).is_empty(), "nothing is in the way");
    publish(&generations, &[("p.txt", &text), ("f.bin", &"d".repeat(20 * MIB))], NOW + 2).await;
    assert_eq!(generations.live_since(), Some(NOW + 2));
    // The oldest holds nothing of its own; without the next there is room.
    assert!(!generations.has_room_for_variant());
    let gone = generations.make_room_for_variant(NOW + 3);
    assert_eq!(gone.iter().map(|gone| gone.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(numbers(&generations), [3, 4]);
    assert!(generations.has_room_for_variant());
    let last = generations.log().remove(0);
    assert_eq!((last.outcome, last.generation, last.time), (Outcome::Dropped, Some(2), NOW + 3));
    assert!(last.problems[0].text.contains("gzip"), "{last:?}");

    // What waits behind a pinned one stays, and nothing is given up in vain.
    let old = publish(&generations, &[("p.txt", &text)], NOW + 4).await;
    let pinned = publish(&generations, &[("p.txt", &text)], NOW + 5).await;
    generations.pin("me", NOW + 6);
    let waits = [("p.txt", &*text), ("f.bin", &"e".repeat(60 * MIB))];
    let waiting = publish(&generations, &waits, NOW + 7).await;
    assert!(!generations.has_room_for_variant());
    assert!(generations.make_room_for_variant(NOW + 8).is_empty());
    assert_eq!(numbers(&generations), [3, 4, old, pinned, waiting]);
    assert_eq!(generations.live_since(), Some(NOW + 5));
}

#[tokio::test]
async fn room_is_made_for_what_comes_but_what_is_live_stays() {
    const MIB: u64 = 1 << 20;
    let generations = Generations::new(3);
    assert_eq!(generations.make_room(u64::MAX, NOW).left, u64::MAX, "nothing is there");
    let options = BuildOptions { max_size: 100 * MIB, ..options() };
    for letter in ["a", "b", "c"] {
        let text = letter.repeat(20 << 20);
        let before: Vec<_> = generations.kept().into_iter().map(|kept| kept.site).collect();
        let site = made(&[("x", &text), ("y", "same")], NOW, &before, &options).await.unwrap();
        generations.publish(site, "test", NOW);
    }
    let numbers = || generations.kept().iter().map(|kept| kept.number).collect::<Vec<_>>();
    // A page of a small site, and what fits, costs nothing.
    let room = generations.make_room(1000, NOW);
    assert!(room.gone.is_empty() && room.left > 1000, "{room:?}");
    assert_eq!(room.left, SMALL - 60 * MIB - 4);
    assert!(generations.make_room(room.left, NOW).gone.is_empty());
    assert_eq!(numbers(), [1, 2, 3]);
    // One byte more does, and the log says so.
    let room = generations.make_room(room.left + 1, NOW);
    assert_eq!(room.gone.iter().map(|gone| gone.number).collect::<Vec<_>>(), [1]);
    assert_eq!(room.left, SMALL - 40 * MIB - 4);
    assert_eq!(numbers(), [2, 3]);
    let last = generations.log().remove(0);
    assert_eq!((last.outcome, last.generation), (Outcome::Dropped, Some(1)));
    assert!(last.problems[0].text.contains("memory"), "{last:?}");
    assert_eq!(generations.roll_back(1, "me", NOW).unwrap_err(), RollbackError::Unknown(1));

    // What is pinned is live, and stays however old it is.
    let pinned = generations.roll_back(2, "me", NOW).unwrap();
    generations.pin("me", NOW);
    let text = "d".repeat(20 << 20);
    let held = made(&[("x", &text)], NOW, &[], &options).await.unwrap();
    generations.publish(held, "test", NOW);
    assert_eq!(numbers(), [3, 4, 5]);
    let room = generations.make_room(50 * MIB, NOW);
    assert_eq!(room.left, u64::MAX, "nothing else can go");
    assert_eq!(numbers(), [pinned.number]);
    assert_eq!(find(&generations.current().unwrap().site, "/y"), "200 same");
}
