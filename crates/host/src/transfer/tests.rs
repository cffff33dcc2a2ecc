use super::live::command;

#[test]
fn commands_of_a_stream_are_taken_once_they_are_whole() {
    let stream = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n";
    let (first, words) = command(stream).expect("sound").expect("whole");
    assert_eq!(words, [&b"SELECT"[..], b"0"]);
    let (second, words) = command(&stream[first..]).expect("sound").expect("whole");
    assert_eq!((second, words.len()), (1, 0));
    let last = &stream[first + second..];
    assert_eq!(command(last), Ok(Some((last.len(), vec![&b"SET"[..], b"k", b"\r\n"]))));
    for cut in 0..last.len() {
        assert_eq!(command(&last[..cut]), Ok(None), "{cut}");
    }
    for odd in [&b"hello\r\n"[..], b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$1\r\nabc\r\n", &[b'*'; 100]]
    {
        assert!(command(odd).is_err(), "{odd:?}");
    }
}
