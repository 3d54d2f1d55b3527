// etcd3, the client for Node: put, txn, watch, lease, lock, election; with a CA, a user and a password all of it over TLS,
// and what is denied as well.
const assert = require('node:assert');
const { readFileSync } = require('node:fs');
const { Etcd3, EtcdAuthenticationFailedError, EtcdPermissionDeniedError } = require('etcd3');

async function main() {
  const [address, caFile, username, password] = process.argv.slice(2);
  const options = caFile
    ? { hosts: `https://${address}`, credentials: { rootCertificate: readFileSync(caFile) }, auth: { username, password } }
    : { hosts: `http://${address}` };
  const etcd = new Etcd3(options);

  await etcd.put('app/js/a').value('1');
  assert.equal(await etcd.get('app/js/a').string(), '1');
  await etcd.put('app/js/b').value(Buffer.from([0, 255]));
  assert.deepEqual(Object.keys(await etcd.getAll().prefix('app/js/').strings()), ['app/js/a', 'app/js/b']);
  console.log('put');

  const txn = await etcd
    .if('app/js/a', 'Value', '==', '1')
    .then(etcd.put('app/js/a').value('2'), etcd.get('app/js/a'))
    .else(etcd.delete().key('app/js/a'))
    .commit();
  assert.equal(txn.succeeded, true);
  assert.equal(await etcd.get('app/js/a').string(), '2');
  console.log('txn');

  const watcher = await etcd.watch().prefix('app/js/w/').create();
  const heard = [];
  const done = new Promise((resolve) => {
    const note = (kind) => (pair) => {
      heard.push([kind, pair.key.toString()]);
      if (heard.length === 3) resolve();
    };
    watcher.on('put', note('put'));
    watcher.on('delete', note('delete'));
  });
  await etcd.put('app/js/w/1').value('x');
  await etcd.put('app/js/w/2').value('x');
  await etcd.delete().key('app/js/w/1');
  await done;
  assert.deepEqual(heard, [['put', 'app/js/w/1'], ['put', 'app/js/w/2'], ['delete', 'app/js/w/1']]);
  await watcher.cancel();
  console.log('watch');

  const lease = etcd.lease(60);
  await lease.put('app/js/leased').value('1');
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await etcd.get('app/js/leased').string(), null);
  console.log('lease');

  await etcd.lock('app/js/lock').ttl(30).do(async () => {
    await assert.rejects(etcd.lock('app/js/lock').ttl(30).acquire());
  });
  console.log('lock');

  const election = etcd.election('app/js/election', 30);
  const campaign = election.campaign('me');
  await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
  assert.equal(await election.leader(), 'me');
  await campaign.resign();
  console.log('election');

  if (caFile) {
    await assert.rejects(etcd.put('secret').value('1'), EtcdPermissionDeniedError);
    await assert.rejects(etcd.getAll().strings(), EtcdPermissionDeniedError);
    await assert.rejects(etcd.delete().prefix('app'), EtcdPermissionDeniedError);
    const stranger = new Etcd3({ ...options, auth: { username, password: 'wrong' } });
    await assert.rejects(stranger.get('app/js/a'), EtcdAuthenticationFailedError);
    stranger.close();
    console.log('auth');
  }

  etcd.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
