# A machine: a process that has its own connection to the lock service, which what it starts
# inherits. What is said on the connection comes from the test, message by message.

use strict;
use warnings;
use Socket;

$| = 1;
# Above this number, descriptors are closed by exec.
$^F = 1000;
my ($path) = @ARGV;
socket my $service, PF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
connect $service, pack_sockaddr_un($path) or die "$path: $!";
print "$$\n";

sub bytes {
    my ($count) = @_;
    my $bytes = "";
    while (length $bytes < $count) {
        my $got = sysread $service, $bytes, $count - length $bytes, length $bytes;
        return undef unless $got;
    }
    return $bytes;
}

while (my $line = <STDIN>) {
    my ($word, $rest) = split ' ', $line;
    if ($word eq 'send') {
        syswrite $service, pack 'H*', $rest;
        print "sent\n";
    } elsif ($word eq 'receive') {
        my $length = bytes(4);
        my $message = defined $length ? bytes(unpack('N', $length) - 4) : undef;
        print defined $message ? unpack('H*', $message) : 'closed', "\n";
    } elsif ($word eq 'close') {
        close $service;
        print "closed\n";
    } elsif ($word eq 'bear') {
        my $child = fork;
        defined $child or die "fork: $!";
        # It ends by itself in the end, should the test not get so far.
        $child or exec 'sleep', '300' or die "sleep: $!";
        print "$child\n";
    }
}
